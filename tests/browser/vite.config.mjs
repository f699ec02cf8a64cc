// SPDX-License-Identifier: Apache-2.0
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { defineConfig } from 'vite';

const packageDirectory = (name) => dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));

export default defineConfig({
  // @grafana/ui imports CommonJS packages in the way that bundlers before Rolldown understood.
  legacy: { inconsistentCjsInterop: true },
  define: { 'process.env.NODE_ENV': '"production"', 'process.env': '{}', global: 'globalThis' },
  build: {
    // A few names that Grafana's packages import do not exist in the published versions of what they import from.
    rolldownOptions: { shimMissingExports: true },
    minify: false,
    sourcemap: false,
    chunkSizeWarningLimit: 100000,
  },
  resolve: {
    alias: {
      'scrollbars-commonjs': join(packageDirectory('react-custom-scrollbars-2'), 'lib/index.js'),
      'react-custom-scrollbars-2': new URL('./src/scrollbars.js', import.meta.url).pathname,
      'react-router-dom-v5-compat': packageDirectory('react-router-dom'),
    },
    // Two copies of any of these would not share their registries and contexts.
    dedupe: ['react', 'react-dom', 'rxjs', '@grafana/data', '@grafana/ui', '@grafana/runtime'],
  },
});
