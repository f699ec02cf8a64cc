// SPDX-License-Identifier: Apache-2.0
// Renders dashboards in Chromium and prints what became of them.
//
//   node render.mjs JOB.json > REPORT.json
//
// JOB: { prometheus: URL, chromium: PATH, scrape: "15s", from, to: ISO 8601, width: pixels,
//        dashboards: [{ name, file: JSON of a dashboard, picture: PNG to write }] }
// The page that `vite build` made is in dist/ beside this file. No request leaves the page's own server but those to Prometheus.
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { preview } from 'vite';

const SETTLE_MS = 400;
const LIMIT_MS = 300_000; // A machine that also boots virtual machines takes its time; usual are 5 seconds for a dashboard.

const job = JSON.parse(await readFile(process.argv[2], 'utf8'));

const server = await preview({
  root: dirname(fileURLToPath(import.meta.url)),
  logLevel: 'error',
  preview: {
    host: '127.0.0.1',
    port: 0,
    proxy: { '/prometheus': { target: job.prometheus, rewrite: (path) => path.replace(/^\/prometheus/, '') } },
  },
});
const origin = `http://127.0.0.1:${server.httpServer.address().port}`;

const browser = await chromium.launch({
  executablePath: job.chromium,
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

const context = await browser.newContext({ viewport: { width: job.width ?? 1600, height: 1000 }, timezoneId: 'UTC', locale: 'en-GB' });
context.setDefaultTimeout(LIMIT_MS);

/** Every variable has been loaded, every panel and annotation has an answer. */
const finished = () => {
  if (window.failed) {
    return true;
  }
  const report = window.report?.();
  const answered = ({ state }) => state === 'Done' || state === 'Error';
  return (
    !!report?.panels.length &&
    report.variables.every((variable) => !variable.loading) &&
    report.panels.every((panel) => !panel.targets.length || answered(panel) || panel.errors.length) &&
    report.annotations.every(answered)
  );
};

/** Nothing on the page has changed for a while. */
const settled = (quietMs) =>
  new Promise((resolve) => {
    let timer;
    const observer = new MutationObserver(() => again());
    const again = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        observer.disconnect();
        resolve();
      }, quietMs);
    };
    observer.observe(document.body, { subtree: true, childList: true, attributes: true });
    document.fonts.ready.then(again);
  });

async function render({ name, file, picture }) {
  const page = await context.newPage();
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(`exception: ${error.stack ?? error.message}`));
  page.on('console', (message) => message.type() === 'error' && complaints.push(`console: ${message.text()}`));
  page.on('response', (response) => response.status() >= 500 && complaints.push(`HTTP ${response.status()} ${response.url()}`));
  await page.route('**/*', (route) => (new URL(route.request().url()).origin === origin ? route.fallback() : route.abort()));
  await page.route('**/job/dashboard.json', async (route) => route.fulfill({ contentType: 'application/json', body: await readFile(file, 'utf8') }));
  const search = new URLSearchParams({ dashboard: '/job/dashboard.json', from: job.from, to: job.to, scrape: job.scrape });
  await page.goto(`${origin}/?${search}`, { waitUntil: 'commit' });
  let timedOut = false;
  try {
    await page.waitForFunction(finished, null, { timeout: LIMIT_MS, polling: 200 });
  } catch {
    timedOut = true;
  }
  const failed = await page.evaluate(() => window.failed ?? null);
  if (!failed) {
    const height = await page.evaluate(() => Math.ceil(document.querySelector('#dashboard')?.getBoundingClientRect().height ?? 0));
    await page.setViewportSize({ width: job.width ?? 1600, height: Math.max(height, 300) });
  }
  await page.evaluate(settled, SETTLE_MS);
  if (picture) {
    await page.screenshot({ path: picture });
  }
  // Without a page there is nothing to report on: React took it down after an exception, which is among the complaints.
  const report = failed ? null : await page.evaluate(() => window.report());
  await page.close();
  return { name, failed, timedOut, complaints, report };
}

try {
  const reports = [];
  for (const dashboard of job.dashboards) {
    reports.push(await render(dashboard));
  }
  process.stdout.write(JSON.stringify(reports));
} finally {
  await browser.close();
  await server.close();
}
