# SPDX-License-Identifier: Apache-2.0
"""What one start compiled serves the next, and only root's own files ever go into the kernel."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit import bpf_programs
from uaptrace.ebpf.compiled import KERNEL_CALL, LOAD_CONSTANT, Compiled, MapSpec, from_json, with_places, with_values
from uaptrace.ebpf.objects import Program, ProgramRefusedError, load_program
from uaptrace.loader import attaching, programs
from uaptrace.loader import cache as program_cache
from uaptrace.loader.compiler import compile_programs
from uaptrace.loader.program import bpf_folder, use_stub_headers

ME = os.getuid()
SOCKET_FILTER = 1
SMALL = Compiled({"ring": MapSpec(27, 0, 0, 4096, 0)}, {"f": bytes.fromhex("1811000000000000 0000000000000000 9500000000000000")})


@st.composite
def code(draw: st.DrawFn, nr_maps: int = 4) -> bytes:
    """Instructions, some of which load one of the maps, and some a constant that looks like another instruction."""
    parts = []
    for _ in range(draw(st.integers(0, 12))):
        what = draw(st.sampled_from(["map", "constant", "other"]))
        if what == "map":
            parts += [bytes([0x18, 0x11, 0, 0]) + draw(st.integers(0, nr_maps - 1)).to_bytes(4, "little"), bytes(8)]
        elif what == "constant":
            parts += [bytes([0x18, 0x01, 0, 0]) + draw(st.binary(min_size=4, max_size=4)), bytes(4) + bytes([0x18, 0x11, 1, 1])]
        else:
            parts.append(bytes([draw(st.sampled_from([0x07, 0x85, 0xB7, 0x95]))]) + draw(st.binary(min_size=7, max_size=7)))
    return b"".join(parts)


@given(code(), st.lists(st.integers(3, 2**31 - 1), min_size=4, max_size=4, unique=True))
def test_maps_are_put_in_and_taken_out_and_nothing_else_changes(places: bytes, fds: list[int]) -> None:
    ready = with_values(places, fds)
    assert with_places(ready, fds) == places
    assert len(ready) == len(places)
    at = 0
    while at < len(places):
        is_map = places[at] == 0x18 and places[at + 1] >> 4 == 1
        expected = fds[int.from_bytes(places[at + 4 : at + 8], "little")].to_bytes(4, "little") if is_map else places[at + 4 : at + 8]
        assert ready[at : at + 4] == places[at : at + 4]
        assert ready[at + 4 : at + 8] == expected
        step = 16 if places[at] == 0x18 else 8
        assert ready[at + 8 : at + step] == places[at + 8 : at + step]
        at += step


@given(before=code(), after=code(), number=st.integers(0, 2), constants=st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=3))
def test_a_constant_of_the_boot_is_put_in_whole_and_nothing_else_changes(
    before: bytes, after: bytes, number: int, constants: list[int]
) -> None:
    load = bytes([0x18, 3, 0, 0]) + number.to_bytes(4, "little") + bytes(4) + LOAD_CONSTANT.to_bytes(4, "little")
    ready = with_values(before + load + after, range(4), constants)
    assert ready[: len(before)] == before
    assert ready[len(before) + 16 :] == after
    put_in = ready[len(before) : len(before) + 16]
    assert put_in[4:8] + put_in[12:16] == constants[number].to_bytes(8, "little")
    assert put_in[:4] + put_in[8:12] == load[:4] + load[8:12]
    with pytest.raises(ValueError, match="unknown constant"):
        with_values(before + load + after, range(4), constants[:number])


@given(before=code(), after=code(), number=st.integers(0, 2), constants=st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3))
def test_a_function_of_the_kernel_is_called_where_the_kernel_has_it(before: bytes, after: bytes, number: int, constants: list[int]) -> None:
    call = bytes([0x85, 0, 0, 0]) + (KERNEL_CALL << 16 | number).to_bytes(4, "little")
    ready = with_values(before + call + after, range(4), constants)
    assert ready[: len(before)] == before
    assert ready[len(before) + 8 :] == after
    put_in = ready[len(before) : len(before) + 8]
    assert put_in == (bytes([0x85, 0x20, 0, 0]) + constants[number].to_bytes(4, "little") if constants[number] else call)
    with pytest.raises(ValueError, match="unknown constant"):
        with_values(before + call + after, range(4), constants[:number])


@pytest.mark.parametrize("cut", [4, 8, 12])
def test_code_that_is_cut_off_is_refused(cut: int) -> None:
    whole = bytes.fromhex("9500000000000000 1801000000000000 0000000000000000")
    with pytest.raises(ValueError, match="truncated"):
        with_values(whole[: 8 + cut], ())


@given(st.dictionaries(st.text(min_size=1), code(nr_maps=1)))
def test_what_is_kept_is_what_comes_back(functions: dict[str, bytes]) -> None:
    compiled = Compiled(SMALL.maps, functions)
    assert from_json(json.loads(json.dumps(compiled.to_json()))) == compiled


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.fixed_dictionaries({"maps": inner, "functions": inner}),
    max_leaves=8,
)


@given(JSON)
@example({"maps": {"a": 1}, "functions": {}})
@example({"maps": {}, "functions": {"f": "no base64!"}})
@example({"maps": {}, "functions": {"f": "GBEA"}})
def test_anything_else_is_refused_without_a_crash(held: Any) -> None:
    with contextlib.suppress(ValueError):
        compiled = from_json(held)
        assert from_json(compiled.to_json()) == compiled


def test_code_that_loads_a_map_that_there_is_not_is_refused() -> None:
    foreign = Compiled({}, SMALL.functions)
    with pytest.raises(ValueError, match="unknown map"):
        from_json(foreign.to_json())


def test_the_next_start_finds_it(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    program_cache.write("k", SMALL, folder, ME)
    assert program_cache.read("k", folder, ME) == SMALL
    assert program_cache.read("other", folder, ME) is None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_can_write_is_not_loaded(tmp_path: Path, what: str, mode: int) -> None:
    program_cache.write("k", SMALL, tmp_path / "cache", ME)
    path = tmp_path / "cache" if what == "folder" else next((tmp_path / "cache").iterdir())
    path.chmod(path.stat().st_mode | mode)
    assert program_cache.read("k", tmp_path / "cache", ME) is None


def test_what_another_user_wrote_is_not_loaded(tmp_path: Path) -> None:
    program_cache.write("k", SMALL, tmp_path / "cache", ME)
    assert program_cache.read("k", tmp_path / "cache", ME + 1) is None
    program_cache.write("k2", SMALL, tmp_path / "cache", ME + 1)
    assert program_cache.read("k2", tmp_path / "cache", ME) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    program_cache.write("k", SMALL, tmp_path / "elsewhere", ME)
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    assert program_cache.read("k", tmp_path / "cache", ME) is None
    program_cache.write("k2", SMALL, tmp_path / "elsewhere", ME)
    file = next(path for path in (tmp_path / "elsewhere").iterdir() if "k2" in path.name)
    moved = file.rename(tmp_path / "moved")
    file.symlink_to(moved)
    assert program_cache.read("k2", tmp_path / "elsewhere", ME) is None


def test_damage_means_compiling_again(tmp_path: Path) -> None:
    program_cache.write("k", SMALL, tmp_path, ME)
    next(tmp_path.iterdir()).write_bytes(b'{"maps"')
    assert program_cache.read("k", tmp_path, ME) is None


def test_where_nothing_can_be_kept_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    program_cache.write("k", SMALL, tmp_path / "file", ME)
    program_cache.write("k", SMALL, tmp_path / "file" / "below", ME)


def test_the_oldest_go(tmp_path: Path) -> None:
    for i in range(program_cache.MAX_FILES + 3):
        program_cache.write(f"k{i}", SMALL, tmp_path, ME)
        os.utime(tmp_path / f"programs-k{i}.json", ns=(i, i))
    program_cache.write("last", SMALL, tmp_path, ME)
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == program_cache.MAX_FILES
    assert "programs-last.json" in names
    assert "programs-k0.json" not in names


def test_the_key_tells_what_is_compiled_apart() -> None:
    keys = [
        program_cache.cache_key("text", ["-DA=1"], [b"header"]),
        program_cache.cache_key("text", ["-DA=2"], [b"header"]),
        program_cache.cache_key("text", ["-DA=1"], [b"headers"]),
        program_cache.cache_key("text-DA=1", [], [b"header"]),
        program_cache.cache_key("text", ["-DA", "=1"], [b"header"]),
    ]
    assert len(set(keys)) == len(keys)


def test_a_kept_program_runs_in_the_kernel_as_a_fresh_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket filter, which every kernel loads, with two maps: it counts its runs in one and sends each through the other."""
    if why := bpf_programs.why_not():
        pytest.skip(why)
    use_stub_headers(bpf_folder())
    text = """
BPF_ARRAY(runs, u64, 1);
BPF_RINGBUF_OUTPUT(ring, 1);
int count(struct __sk_buff *skb)
{
	u32 zero = 0;
	u64 *n = runs.lookup(&zero), *sent = ring.ringbuf_reserve(sizeof(*sent));

	if (sent)
		ring.ringbuf_submit(sent, 0);
	if (!n)
		return -1;
	return __sync_fetch_and_add(n, 1), *n;
}
"""
    compiled_times = []

    def compile_and_count(*args: Any) -> Any:
        compiled_times.append(1)
        return compile_programs(*args)

    monkeypatch.setattr(programs, "compile_programs", compile_and_count)
    for start in range(2):
        compiled = programs.compiled_programs(text, (), bpf_folder(), kept_in=tmp_path / "cache")
        assert list(compiled.maps) == ["ring", "runs"]
        maps = attaching._create_maps(compiled)
        program = load_program(Program("count", SOCKET_FILTER, with_values(compiled.functions["count"], maps)))
        assert [bpf_programs.run(program) for _ in range(3)] == [1, 2, 3], f"start {start}: each has maps of its own"
        for fd in (program, *maps):
            os.close(fd)
    assert len(compiled_times) == 1


def test_a_constant_of_the_boot_reaches_the_kernel_as_it_is_now(tmp_path: Path) -> None:
    """What was compiled once is loaded with other values, as at the next boot."""
    if why := bpf_programs.why_not():
        pytest.skip(why)
    use_stub_headers(bpf_folder())
    common = (bpf_folder() / "common.bpf.c").read_text()
    macro = next(line for line in common.splitlines() if line.startswith("#define UAP_AT_LOAD"))
    text = f"""
{macro}
int difference(struct __sk_buff *skb)
{{
	return (int)((UAP_AT_LOAD({LOAD_CONSTANT << 32:#x}) - UAP_AT_LOAD({LOAD_CONSTANT << 32 | 1:#x})) >> 32);
}}
"""
    compiled = programs.compiled_programs(text, (), bpf_folder(), kept_in=tmp_path / "cache")
    for constants in ((5 << 32, 3 << 32), (0xFFFF_8880_0000_0000, 0xFFFF_8870_0000_0000)):
        program = load_program(Program("difference", SOCKET_FILTER, with_values(compiled.functions["difference"], (), constants)))
        assert bpf_programs.run(program) == (constants[0] - constants[1]) >> 32
        os.close(program)


def test_a_program_that_the_kernel_refuses_says_why() -> None:
    if why := bpf_programs.why_not():
        pytest.skip(why)
    leaves_without_a_result = bytes.fromhex("9500000000000000")
    with pytest.raises(ProgramRefusedError) as refused:
        load_program(Program("nothing", SOCKET_FILTER, leaves_without_a_result))
    assert "R0" in refused.value.log
