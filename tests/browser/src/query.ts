// SPDX-License-Identifier: Apache-2.0
// What Grafana's server does for the Prometheus data source (the Go part, which npm does not have): step, macros, legends, frames.
// Every query that is sent is kept in `queryLog`, so that a test can say what was asked for and what came back.
import { rangeUtil } from '@grafana/data';

export const SCRAPE_INTERVAL = new URLSearchParams(location.search).get('scrape') ?? '15s';
const MAX_POINTS = 11000;

export interface LoggedQuery {
  refId: string;
  expr: string;
  step: string;
  instant: boolean;
  frames: number;
  error?: string;
}
export const queryLog: LoggedQuery[] = [];

/** One request to Prometheus through the proxy of the page's server. */
export async function prometheus(path: string, params: Record<string, unknown>) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(params ?? {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null) {
        search.append(key, String(one));
      }
    }
  }
  const response = await fetch(`/prometheus${path}?${search}`);
  return { status: response.status, body: await response.json() };
}

const toMs = (interval: string) => rangeUtil.intervalToMs(interval);
const formatMs = (ms: number) => (ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`);

/** Step in ms: the panel's interval, not below the scrape interval, not more than 11000 points. */
function stepMs(query: any, rangeMs: number): number {
  const wanted = Math.max(query.intervalMs || 1000, toMs((query.interval || '').replace(/^[<>]=?/, '') || SCRAPE_INTERVAL));
  const least = Math.ceil(rangeMs / MAX_POINTS);
  return Math.max(1000, Math.round(Math.max(wanted, least) / 1000) * 1000) * (query.intervalFactor || 1);
}

function withMacros(expr: string, step: number, rangeMs: number): string {
  const scrape = toMs(SCRAPE_INTERVAL);
  const rangeS = Math.round(rangeMs / 1000);
  const values: Record<string, string> = {
    __rate_interval: formatMs(Math.max(step + scrape, 4 * scrape)),
    __interval_ms: String(step),
    __interval: formatMs(step),
    __range_ms: String(rangeMs),
    __range_s: String(rangeS),
    __range: `${rangeS}s`,
  };
  return expr.replace(/\$(?:\{(__\w+)\}|(__\w+))/g, (all, braced, bare) => values[braced ?? bare] ?? all);
}

function legend(query: any, labels: Record<string, string>, expr: string): string {
  const format = query.legendFormat;
  if (format && format !== '__auto') {
    return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_: string, name: string) => labels[name] ?? '');
  }
  const { __name__: name = '', ...rest } = labels;
  const text = Object.entries(rest).map(([key, value]) => `${key}="${value}"`).join(', ');
  return text ? `${name}{${text}}` : name || expr;
}

const SPECIAL: Record<string, number> = { '+Inf': Infinity, '-Inf': -Infinity, NaN: NaN };
const toNumber = (text: string) => SPECIAL[text] ?? Number(text);

function toFrame(query: any, labels: Record<string, string>, points: Array<[number, string]>, resultType: string, expr: string, step: number) {
  const name = legend(query, labels, expr);
  return {
    schema: {
      refId: query.refId,
      name,
      meta: {
        type: resultType === 'matrix' ? 'timeseries-multi' : 'numeric-multi',
        typeVersion: [0, 1],
        custom: { resultType },
        executedQueryString: `Expr: ${expr}\nStep: ${formatMs(step)}`,
      },
      fields: [
        { name: 'Time', type: 'time', typeInfo: { frame: 'time.Time' }, config: { interval: step } },
        { name: 'Value', type: 'number', typeInfo: { frame: 'float64' }, labels, config: { displayNameFromDS: name } },
      ],
    },
    data: { values: [points.map((p) => p[0] * 1000), points.map((p) => toNumber(p[1]))] },
  };
}

/** Answer to /api/ds/query. */
export async function runQueries(body: any) {
  const fromMs = Number(body.from);
  const endMs = Number(body.to);
  const rangeMs = endMs - fromMs;
  const results: Record<string, any> = {};
  for (const query of body.queries) {
    const step = stepMs(query, rangeMs);
    const expr = withMacros(query.expr, step, rangeMs);
    const logged: LoggedQuery = { refId: query.refId, expr, step: formatMs(step), instant: !!query.instant, frames: 0 };
    queryLog.push(logged);
    const frames: any[] = [];
    const add = async (path: string, params: Record<string, unknown>) => {
      const { body: answer } = await prometheus(path, { query: expr, ...params });
      if (answer.status !== 'success') {
        logged.error = answer.error ?? `HTTP error from ${path}`;
      } else if (answer.data.resultType === 'scalar') {
        frames.push(toFrame(query, {}, [answer.data.result], 'scalar', expr, step));
      } else {
        for (const series of answer.data.result) {
          frames.push(toFrame(query, series.metric, series.values ?? [series.value], answer.data.resultType, expr, step));
        }
      }
    };
    if (query.range || !query.instant) {
      const aligned = (ms: number) => (Math.floor(ms / step) * step) / 1000;
      await add('/api/v1/query_range', { start: aligned(fromMs), end: aligned(endMs), step: step / 1000 });
    }
    if (query.instant) {
      await add('/api/v1/query', { time: endMs / 1000 });
    }
    logged.frames = frames.length;
    results[query.refId] = logged.error ? { status: 400, error: logged.error } : { status: 200, frames };
  }
  return { results };
}
