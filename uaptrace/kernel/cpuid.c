/* SPDX-License-Identifier: Apache-2.0 */
/* cpuid(leaf, subleaf) -> (eax, ebx, ecx, edx) of the processor that runs it. No Python reads it otherwise, and the kernel has it only
 * behind a module (/dev/cpu/0/cpuid). */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <cpuid.h>

static PyObject *cpuid(PyObject *self, PyObject *args)
{
	unsigned int leaf, subleaf, eax, ebx, ecx, edx;

	if (!PyArg_ParseTuple(args, "II", &leaf, &subleaf))
		return NULL;
	__cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
	return Py_BuildValue("(IIII)", eax, ebx, ecx, edx);
}

static PyMethodDef methods[] = {
	{ "cpuid", cpuid, METH_VARARGS, "The four registers of a leaf and subleaf." },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "cpuid",
	.m_size = 0,
	.m_methods = methods,
};

PyMODINIT_FUNC PyInit_cpuid(void)
{
	return PyModule_Create(&module);
}
