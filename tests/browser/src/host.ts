// SPDX-License-Identifier: Apache-2.0
// What Grafana's application gives to its libraries: services, registries, and one data source.
import { Observable, from, lastValueFrom, of } from 'rxjs';
import { catchError, map, startWith } from 'rxjs/operators';
import {
  EventBusSrv, LoadingState, booleanOverrideProcessor, createTheme, dataLinksOverrideProcessor, displayNameOverrideProcessor,
  identityOverrideProcessor, numberOverrideProcessor, standardEditorsRegistry, standardFieldConfigEditorRegistry, standardTransformers,
  standardTransformersRegistry, stringOverrideProcessor, thresholdsOverrideProcessor, toDataFrame, unitOverrideProcessor,
  valueMappingsOverrideProcessor, locationUtil,
} from '@grafana/data';
import * as runtime from '@grafana/runtime';
import { sceneGraph } from '@grafana/scenes';
import { PrometheusDatasource } from '@grafana/prometheus';
import { SCRAPE_INTERVAL, prometheus, runQueries } from './query';

export const theme = createTheme({ colors: { mode: 'dark' } });
export const DATASOURCE_UID = 'prometheus';

let rootScene: any;
/** The scene whose variables a text without a scene of its own is resolved with. */
export const setRootScene = (scene: any) => {
  rootScene = scene;
};

const backendSrv: any = {
  fetch(options: any) {
    const answer = (async () => {
      if (options.url.includes('/api/ds/query')) {
        return { status: 200, ok: true, data: await runQueries(options.data), headers: new Headers(), config: options };
      }
      const match = /(\/api\/v1\/[^?]*)(?:\?(.*))?$/.exec(options.url);
      if (!match) {
        throw new Error(`the harness has no answer for ${options.url}`);
      }
      const body = typeof options.data === 'string' ? Object.fromEntries(new URLSearchParams(options.data)) : options.data;
      const params: Record<string, any> = { ...(options.params ?? {}), ...(options.method === 'POST' ? (body ?? {}) : {}) };
      new URLSearchParams(match[2] ?? '').forEach((value, key) => {
        params[key] = key in params ? [].concat(params[key], value as any) : value;
      });
      const result = await prometheus(match[1], params);
      return { status: result.status, ok: result.status < 400, data: result.body, headers: new Headers(), config: options };
    })();
    return from(answer);
  },
  get: (url: string, params: any) => lastValueFrom(backendSrv.fetch({ url, params, method: 'GET' })).then((r: any) => r.data),
  post: (url: string, data: any) => lastValueFrom(backendSrv.fetch({ url, data, method: 'POST' })).then((r: any) => r.data),
  datasourceRequest: (options: any) => lastValueFrom(backendSrv.fetch(options)),
  resolveCancelerIfExists() {},
  withNoBackendCache: (callback: any) => callback(),
};

const templateSrv: any = {
  replace(target: string, scopedVars?: any, format?: any) {
    if (!target) {
      return target ?? '';
    }
    const scene = scopedVars?.__sceneObject?.value?.valueOf?.() ?? rootScene;
    return scene ? sceneGraph.interpolate(scene, target, scopedVars, format) : target;
  },
  getVariables: () => [],
  containsTemplate: (text: string) => /\$\w|\$\{|\[\[/.test(text || ''),
  updateTimeRange() {},
  getAdhocFilters: () => [],
};

const settings: any = {
  id: 1,
  uid: DATASOURCE_UID,
  name: 'Prometheus',
  type: 'prometheus',
  access: 'proxy',
  url: `/api/datasources/proxy/uid/${DATASOURCE_UID}`,
  isDefault: true,
  readOnly: false,
  meta: { id: 'prometheus', name: 'Prometheus', type: 'datasource', info: { logos: { small: '', large: '' } }, metrics: true, module: '', baseUrl: '' },
  jsonData: { timeInterval: SCRAPE_INTERVAL, httpMethod: 'GET', prometheusType: 'Prometheus', prometheusVersion: '2.42.0', disableRecordingRules: true },
};

function installDataSource() {
  const datasource: any = new (PrometheusDatasource as any)(settings, templateSrv);
  Object.assign(datasource, { meta: settings.meta, name: settings.name, uid: settings.uid });
  const known = [DATASOURCE_UID, 'Prometheus', 'default', ''];
  runtime.setDataSourceSrv({
    get: async () => datasource,
    getInstanceSettings: (ref: any) => {
      const uid = typeof ref === 'string' ? ref : ref?.uid;
      return known.includes((uid && templateSrv.replace(uid)) ?? '') ? settings : undefined;
    },
    getList: () => [settings],
    reload() {},
    registerRuntimeDataSource() {},
  } as any);
}

/** Grafana's query runner: turns answers into panel data. */
function runRequest(datasource: any, request: any, queryFunction?: any): Observable<any> {
  const result = queryFunction ? queryFunction(request) : datasource.query(request);
  const answers: Observable<any> = result?.subscribe ? result : from(Promise.resolve(result));
  const base = { annotations: [], timeRange: request.range, request };
  return answers.pipe(
    map((answer: any) => ({
      ...base,
      state: answer.error || answer.errors?.length ? LoadingState.Error : LoadingState.Done,
      series: (answer.data || []).map((frame: any) => (frame?.fields ? toDataFrame(frame) : frame)),
      errors: answer.errors,
      error: answer.error,
    })),
    catchError((error: any) => of({ ...base, state: LoadingState.Error, series: [], errors: [{ message: String(error?.message ?? error) }] })),
    startWith({ ...base, state: LoadingState.Loading, series: [] })
  );
}

const property = (id: string, process: any, extra: any = {}) => ({
  id, path: id, name: id, process, override: () => null, editor: () => null, shouldApply: () => true, settings: {}, ...extra,
});

function fillRegistries() {
  const transformers = Object.values(Object.fromEntries(Object.values(standardTransformers).map((one: any) => [one.id, one])));
  standardTransformersRegistry.setInit(
    () => transformers.map((one: any) => ({ id: one.id, name: one.name, transformation: () => Promise.resolve(one), imageDark: '', imageLight: '', editor: () => null })) as any
  );
  standardEditorsRegistry.setInit(
    () =>
      ['unit', 'number', 'text', 'boolean', 'select', 'radio', 'slider', 'color', 'fieldColor', 'thresholds', 'mappings', 'links', 'multi-select', 'stats-picker', 'timezone', 'field-name', 'strings'].map(
        (id) => ({ id, name: id, editor: () => null })
      ) as any
  );
  standardFieldConfigEditorRegistry.setInit(
    () =>
      [
        property('displayName', displayNameOverrideProcessor),
        property('unit', unitOverrideProcessor),
        property('min', numberOverrideProcessor),
        property('max', numberOverrideProcessor),
        property('fieldMinMax', booleanOverrideProcessor),
        property('decimals', numberOverrideProcessor),
        property('thresholds', thresholdsOverrideProcessor, { defaultValue: { mode: 'absolute', steps: [{ value: -Infinity, color: 'green' }] } }),
        property('mappings', valueMappingsOverrideProcessor, { defaultValue: [] }),
        property('noValue', stringOverrideProcessor),
        property('links', dataLinksOverrideProcessor),
        property('color', identityOverrideProcessor),
        property('description', stringOverrideProcessor),
        property('filterable', booleanOverrideProcessor),
      ] as any
  );
}

/** Must be called once, before a scene is made. */
export function installHost() {
  runtime.config.theme2 = theme;
  (runtime.config as any).theme = theme.v1;
  (runtime.config as any).bootData = (window as any).grafanaBootData;
  runtime.setBackendSrv(backendSrv);
  runtime.setAppEvents(new EventBusSrv());
  runtime.setEchoSrv({ flush() {}, addBackend() {}, addEvent() {} } as any);
  runtime.setTemplateSrv(templateSrv);
  runtime.setRunRequest(runRequest as any);
  // Data links are built with the paths of this page, and ${__url_time_range} with its time.
  locationUtil.initialize({ config: { appSubUrl: '' } as any, getVariablesUrlParams: () => ({}), getTimeRangeForUrl: () => ({ from: 'now-1h', to: 'now' }) as any });
  installDataSource();
  fillRegistries();
}
