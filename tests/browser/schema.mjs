// SPDX-License-Identifier: Apache-2.0
// What Grafana's packages say about dashboards, as JSON on standard output:
//
//   node schema.mjs schema    JSON schema of a dashboard, made from the types of @grafana/schema, with the options of each panel kind
//   node schema.mjs units     ids of all units that @grafana/data knows
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const PANEL_KINDS = ['bargauge', 'heatmap', 'stat', 'table', 'timeseries'];
const require = createRequire(import.meta.url);

async function makeSchema() {
  const { createGenerator } = await import('ts-json-schema-generator');
  const raw = join(dirname(require.resolve('@grafana/schema/package.json')), 'dist/types/raw');
  const generate = (path, type) => createGenerator({ path, type, skipTypeCheck: true, topRef: true, additionalProperties: false, jsDoc: 'none' }).createSchema(type);
  const result = { dashboard: generate(join(raw, 'dashboard/x/types.gen.d.ts'), 'Dashboard'), panels: {} };
  for (const kind of PANEL_KINDS) {
    const path = join(raw, `composable/${kind}/panelcfg/x/types.gen.d.ts`);
    result.panels[kind] = { options: generate(path, 'Options'), fieldConfig: kind === 'stat' || kind === 'bargauge' ? null : generate(path, 'FieldConfig') };
  }
  return result;
}

async function listUnits() {
  globalThis.navigator ??= { language: 'en-US', languages: ['en-US'] }; // some date formats ask a browser for its language
  const { getValueFormats } = require('@grafana/data');
  return getValueFormats().flatMap((category) => category.submenu.map((unit) => unit.value));
}

const make = { schema: makeSchema, units: listUnits }[process.argv[2]];
if (!make) {
  console.error('usage: node schema.mjs schema|units');
  process.exit(2);
}
process.stdout.write(`${JSON.stringify(await make(), null, 1)}\n`);
