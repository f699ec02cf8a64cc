// SPDX-License-Identifier: Apache-2.0
// Loads ?dashboard=URL (JSON), shows it from &from= to &to=, and leaves a report in window.report().
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import 'uplot/dist/uPlot.min.css';
import 'react-grid-layout/css/styles.css';
import 'react-resizable/css/styles.css';
import React from 'react';
import { createRoot } from 'react-dom/client';
import { MemoryRouter } from 'react-router-dom';
import { ThemeContext } from '@grafana/data';
import { GlobalStyles, PortalContainer } from '@grafana/ui';
import { setPluginImportUtils } from '@grafana/runtime';
import { installHost, setRootScene, theme } from './host';
import { isKnownPanel, panelPlugin } from './panels';
import { makeReport } from './report';
import { toScene } from './scene';

const Page = ({ dashboard, scene }: any) => (
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <MemoryRouter>
      <div id="dashboard" style={{ padding: 16, background: theme.colors.background.canvas, display: 'flex', flexDirection: 'column' }}>
        <h3>{dashboard.title}</h3>
        <scene.Component model={scene} />
      </div>
      <PortalContainer />
    </MemoryRouter>
  </ThemeContext.Provider>
);

async function main() {
  // Graphs measure their labels in the font when they are drawn for the first time.
  await Promise.all([document.fonts.load('400 12px Inter'), document.fonts.load('500 12px Inter')]);
  installHost();
  setPluginImportUtils({
    importPanelPlugin: async (id: string) => panelPlugin(id),
    getPanelPluginFromCache: (id: string) => (isKnownPanel(id) ? panelPlugin(id) : undefined),
  } as any);
  const search = new URLSearchParams(location.search);
  const dashboard = await (await fetch(search.get('dashboard')!)).json();
  const { scene, panels, layers } = toScene(dashboard, { from: search.get('from') ?? dashboard.time.from, to: search.get('to') ?? dashboard.time.to });
  setRootScene(scene);
  (window as any).report = () => makeReport(scene, panels, layers);
  createRoot(document.getElementById('root')!).render(<Page dashboard={dashboard} scene={scene} />);
}

main().catch((error) => {
  (window as any).failed = String(error?.stack ?? error);
});
