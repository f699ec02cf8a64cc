// SPDX-License-Identifier: Apache-2.0
// Dashboard JSON -> scene. Grafana's own loader is in its application; this one knows what the dashboards here use and refuses the rest.
import {
  ConstantVariable, CustomVariable, DataSourceVariable, EmbeddedScene, QueryVariable, SceneControlsSpacer, SceneDataLayerSet,
  SceneDataTransformer, SceneGridItem, SceneGridLayout, SceneGridRow, SceneQueryRunner, SceneRefreshPicker,
  SceneTimePicker, SceneTimeRange, SceneVariableSet, VariableValueSelectors, VizPanel, dataLayers,
} from '@grafana/scenes';

function toVariable(variable: any): any {
  const common = { name: variable.name, label: variable.label, hide: variable.hide, skipUrlSync: variable.skipUrlSync };
  const multiple = {
    isMulti: variable.multi, includeAll: variable.includeAll, allValue: variable.allValue || undefined,
    value: variable.current?.value ?? '', text: variable.current?.text ?? '',
  };
  switch (variable.type) {
    case 'datasource':
      return new DataSourceVariable({ ...common, pluginId: variable.query, regex: variable.regex || '' });
    case 'query':
      return new QueryVariable({
        ...common, ...multiple, datasource: variable.datasource, query: variable.query, refresh: variable.refresh, regex: variable.regex || '', sort: variable.sort,
      });
    case 'custom':
      return new CustomVariable({ ...common, ...multiple, query: variable.query });
    case 'constant':
      return new ConstantVariable({ ...common, value: variable.query });
    default:
      throw new Error(`the harness has no variable of the type ${variable.type}`);
  }
}

export interface LoadedPanel {
  json: any;
  panel: VizPanel;
  runner?: SceneQueryRunner;
}

function toPanel(json: any, loaded: LoadedPanel[]) {
  const runner = json.targets?.length
    ? new SceneQueryRunner({
        datasource: json.datasource ?? undefined, queries: json.targets, maxDataPoints: json.maxDataPoints ?? undefined, minInterval: json.interval ?? undefined,
      })
    : undefined;
  const panel = new VizPanel({
    key: `panel-${json.id}`,
    title: json.title,
    description: json.description,
    pluginId: json.type,
    options: json.options ?? {},
    fieldConfig: json.fieldConfig ?? { defaults: {}, overrides: [] },
    $data: runner && new SceneDataTransformer({ $data: runner, transformations: json.transformations ?? [] }),
  });
  loaded.push({ json, panel, runner });
  const { x, y, w, h } = json.gridPos;
  return new SceneGridItem({ x, y, width: w, height: h, body: panel });
}

function toAnnotationLayers(dashboard: any) {
  return (dashboard.annotations?.list ?? [])
    .filter((one: any) => !one.builtIn)
    .map((one: any) => new dataLayers.AnnotationsDataLayer({ name: one.name, isEnabled: one.enable, isHidden: one.hide, query: { ...one } }));
}

/** The scene of a dashboard, its panels and its annotation layers. */
export function toScene(dashboard: any, time: { from: string; to: string }) {
  const panels: LoadedPanel[] = [];
  const children: any[] = [];
  for (const json of dashboard.panels) {
    if (json.type === 'row') {
      children.push(
        new SceneGridRow({ key: `row-${json.id}`, title: json.title, y: json.gridPos.y, isCollapsed: !!json.collapsed, children: (json.panels ?? []).map((p: any) => toPanel(p, panels)) })
      );
    } else {
      children.push(toPanel(json, panels));
    }
  }
  const layers = toAnnotationLayers(dashboard);
  const scene = new EmbeddedScene({
    $timeRange: new SceneTimeRange({ ...time, timeZone: dashboard.timezone }),
    $variables: new SceneVariableSet({ variables: (dashboard.templating?.list ?? []).map(toVariable) }),
    $data: layers.length ? new SceneDataLayerSet({ layers }) : undefined,
    controls: [
      new VariableValueSelectors({}),
      new SceneControlsSpacer(),
      new SceneTimePicker({}),
      new SceneRefreshPicker({ refresh: '', intervals: ['15s', '1m'] }),
    ],
    body: new SceneGridLayout({ children, isDraggable: false, isResizable: false }),
  });
  return { scene, panels, layers };
}
