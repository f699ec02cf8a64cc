// SPDX-License-Identifier: Apache-2.0
// What became of every variable, panel, target and annotation, for a test to judge.
import { sceneGraph } from '@grafana/scenes';
import { LoadedPanel } from './scene';
import { isKnownPanel } from './panels';
import { queryLog } from './query';

/** As it is put into a query: "all", where the dashboard says what that is, is an object that knows its scene. */
function valueOf(variable: any) {
  const value = variable.getValue();
  return typeof value?.formatter === 'function' ? value.formatter() : value;
}

export function makeReport(scene: any, panels: LoadedPanel[], layers: any[]) {
  return {
    variables: sceneGraph.getVariables(scene).state.variables.map((variable: any) => ({
      name: variable.state.name,
      value: valueOf(variable),
      options: variable.state.options?.length ?? null,
      loading: !!variable.state.loading,
      error: variable.state.error ? String(variable.state.error.message ?? variable.state.error) : null,
    })),
    panels: panels.map(({ json, panel, runner }) => {
      const data: any = runner?.state.data;
      const shown: any = sceneGraph.getData(panel).state.data;
      const element = document.querySelector(`[data-viz-panel-key="panel-${json.id}"]`);
      return {
        id: json.id,
        title: json.title,
        kind: json.type,
        known: isKnownPanel(json.type),
        state: data?.state ?? null,
        errors: [...(data?.errors ?? []).map((e: any) => e.message ?? String(e)), ...((panel.state as any)._pluginLoadError ? [(panel.state as any)._pluginLoadError] : [])],
        // What can be seen in it, but for its title.
        canvases: element?.querySelectorAll('canvas').length ?? 0,
        text: ((element as HTMLElement | null)?.innerText ?? '').replace(json.title, '').trim(),
        links: [...(element?.querySelectorAll('a[href]') ?? [])].map((a) => a.getAttribute('href')),
        noData: !!element?.querySelector('[data-testid="panel-nodata"]'),
        frames: shown?.series?.length ?? 0,
        targets: (json.targets ?? []).map((target: any) => {
          const frames = (data?.series ?? []).filter((frame: any) => frame.refId === target.refId);
          return { refId: target.refId, frames: frames.length, rows: frames.reduce((sum: number, frame: any) => sum + frame.length, 0) };
        }),
      };
    }),
    annotations: layers.map((layer: any) => {
      const data = layer.state.data;
      return { name: layer.state.name, state: data?.state ?? null, errors: (data?.errors ?? []).map((e: any) => e.message), events: data?.series?.[0]?.length ?? 0 };
    }),
    queries: queryLog,
  };
}
