// SPDX-License-Identifier: Apache-2.0
// The panel kinds the dashboards use, around the components of @grafana/ui: Grafana's own panel plugins are not on npm.
import React from 'react';
import {
  FieldColorModeId, FieldType, PanelPlugin, VizOrientation, cacheFieldDisplayNames, getDisplayValueAlignmentFactors, getFieldDisplayName,
  getFieldDisplayValues, identityOverrideProcessor,
} from '@grafana/data';
import { BarGauge, BigValue, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { config } from '@grafana/runtime';
import { addAnnotationMarks } from './annotations';

/** Registers panel-specific field options, so that those of the dashboard are kept. */
const customOptions = (defaults: Record<string, any>) => (builder: any) => {
  for (const [id, defaultValue] of Object.entries(defaults)) {
    builder.addCustomEditor({
      id, path: id, name: id, defaultValue, editor: () => null, override: () => null, process: identityOverrideProcessor, shouldApply: () => true,
    });
  }
};

const TIME_SERIES_FIELD_OPTIONS = {
  drawStyle: 'line', lineInterpolation: 'linear', barAlignment: 0, barWidthFactor: 0.6, lineWidth: 1, fillOpacity: 0, gradientMode: 'none',
  spanNulls: false, insertNulls: false, showPoints: 'auto', pointSize: 5, stacking: { mode: 'none', group: 'A' }, axisPlacement: 'auto',
  axisLabel: '', axisColorMode: 'text', axisBorderShow: false, axisCenteredZero: false, scaleDistribution: { type: 'linear' },
  thresholdsStyle: { mode: 'off' }, hideFrom: { tooltip: false, viz: false, legend: false }, lineStyle: undefined, lineColor: undefined,
  axisWidth: undefined, axisSoftMin: undefined, axisSoftMax: undefined, axisGridShow: undefined, fillBelowTo: undefined,
};
const TABLE_FIELD_OPTIONS = {
  align: 'auto', cellOptions: { type: 'auto' }, inspect: false, width: undefined, minWidth: undefined, hidden: undefined, filterable: undefined,
  hideFrom: { viz: false },
};

const NoData = ({ text }: { text?: string }) => (
  <div data-testid="panel-nodata" style={{ height: '100%', display: 'grid', placeItems: 'center', color: config.theme2.colors.text.secondary }}>
    {text || 'No data'}
  </div>
);

/** Wraps a panel so that one without data says so, as Grafana does. */
const orNoData = (Panel: (props: any) => React.ReactNode) => (props: any) => {
  const empty = !props.data.series?.length || props.data.series.every((frame: any) => !frame.length);
  return empty ? <NoData text={props.fieldConfig?.defaults?.noValue} /> : <Panel {...props} />;
};

function TimeSeriesPanel({ data, timeRange, timeZone, width, height, options }: any) {
  const frames = data.series.map((frame: any) => ({
    ...frame,
    fields: frame.fields.filter((field: any) => field.type === FieldType.time || field.type === FieldType.number),
  }));
  const legend = options.legend ?? { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [] };
  return (
    <TimeSeries frames={frames} structureRev={data.structureRev} timeRange={timeRange} timeZone={timeZone} width={width} height={height} legend={legend} options={options}>
      {(builder: any) => addAnnotationMarks(builder, data.annotations)}
    </TimeSeries>
  );
}

const displayValues = (props: any) =>
  getFieldDisplayValues({
    fieldConfig: props.fieldConfig,
    reduceOptions: { calcs: ['lastNotNull'], ...props.options.reduceOptions },
    replaceVariables: props.replaceVariables,
    theme: config.theme2,
    data: props.data.series,
    timeZone: props.timeZone,
    sparkline: !!props.options.graphMode && props.options.graphMode !== 'none',
  });

const repeater = (props: any, renderValue: any, extra: any = {}) => (
  <VizRepeater
    getValues={() => displayValues(props)}
    getAlignmentFactors={getDisplayValueAlignmentFactors as any}
    renderValue={renderValue}
    width={props.width}
    height={props.height}
    source={props.data}
    renderCounter={props.renderCounter}
    itemSpacing={3}
    orientation={props.options.orientation ?? VizOrientation.Auto}
    autoGrid
    {...extra}
  />
);

const StatPanel = (props: any) => {
  const { options } = props;
  return repeater(props, ({ value, count, alignmentFactors, width, height }: any) => (
    <BigValue
      value={value.display}
      sparkline={value.sparkline}
      count={count}
      colorMode={options.colorMode ?? 'value'}
      graphMode={options.graphMode ?? 'area'}
      justifyMode={options.justifyMode}
      textMode={options.textMode}
      wideLayout={options.wideLayout}
      alignmentFactors={alignmentFactors}
      text={options.text}
      width={width}
      height={height}
      theme={config.theme2}
    />
  ));
};

const BarGaugePanel = (props: any) => {
  const { options } = props;
  const render = ({ value, count, alignmentFactors, orientation, width, height }: any) => (
    <BarGauge
      value={value.display}
      field={value.field}
      display={value.view?.getFieldDisplayProcessor(value.colIndex)}
      orientation={orientation}
      width={width}
      height={height}
      theme={config.theme2}
      text={options.text}
      itemSpacing={10}
      lcdCellWidth={8}
      displayMode={options.displayMode ?? 'gradient'}
      alignmentFactors={count > 1 ? alignmentFactors : undefined}
      showUnfilled={options.showUnfilled ?? true}
      valueDisplayMode={options.valueMode ?? 'color'}
      namePlacement={options.namePlacement}
      isOverflow={false}
    />
  );
  return repeater(props, render, { autoGrid: false, itemSpacing: 10, minVizWidth: 8, minVizHeight: 16, orientation: options.orientation ?? 'horizontal' });
};

function TablePanel({ data, width, height, options, fieldConfig, timeRange }: any) {
  cacheFieldDisplayNames(data.series);
  return (
    <TableNG
      data={data.series[0]}
      structureRev={data.structureRev}
      width={width}
      height={height}
      cellHeight={options.cellHeight ?? 'sm'}
      noHeader={options.showHeader === false}
      sortBy={options.sortBy}
      fieldConfig={fieldConfig}
      timeRange={timeRange}
      resizable
    />
  );
}

/** A plain drawing: the heatmap of Grafana is not on npm. It shows the frame that the data source made of the `le` buckets. */
function HeatmapPanel({ data, width, height }: any) {
  const canvasRef = React.useRef<HTMLCanvasElement>(null);
  const frame = data.series[0];
  React.useEffect(() => {
    const canvas = canvasRef.current;
    const context = canvas?.getContext('2d');
    if (!canvas || !context || !frame) {
      return;
    }
    context.clearRect(0, 0, width, height);
    const times = frame.fields.find((field: any) => field.type === FieldType.time).values;
    const rows = frame.fields.filter((field: any) => field.type === FieldType.number);
    const most = Math.max(...rows.flatMap((row: any) => [...row.values].filter(Number.isFinite)), Number.MIN_VALUE);
    const left = 64;
    const cellWidth = (width - left) / times.length;
    const cellHeight = height / rows.length;
    rows.forEach((row: any, i: number) => {
      const top = height - (i + 1) * cellHeight;
      row.values.forEach((value: number, j: number) => {
        if (value > 0) {
          context.fillStyle = `rgba(255, ${Math.round(200 - (150 * value) / most)}, 60, ${0.2 + (0.8 * value) / most})`;
          context.fillRect(left + j * cellWidth, top, Math.max(1, cellWidth - 1), cellHeight - 1);
        }
      });
      if (i % Math.ceil(14 / cellHeight) === 0) {
        context.fillStyle = config.theme2.colors.text.secondary;
        context.font = '11px sans-serif';
        const name = getFieldDisplayName(row, frame);
        const seconds = Number(name);
        context.fillText(Number.isFinite(seconds) ? row.display(seconds).text + (row.display(seconds).suffix ?? '') : name, 4, top + cellHeight / 2 + 4);
      }
    });
  });
  return <canvas data-testid="heatmap" ref={canvasRef} width={width} height={height} />;
}

const Unknown = (id: string) => () => <div data-testid="panel-unknown">no panel of the kind {id}</div>;

const named = (id: string, plugin: any) => {
  plugin.meta = {
    id, name: id, type: 'panel', module: '', baseUrl: '', sort: 1,
    info: { author: { name: '' }, logos: { small: '', large: '' }, links: [], screenshots: [], updated: '', version: '', description: '' },
  };
  return plugin;
};
const thresholdColors: any = { standardOptions: { color: { settings: { byValueSupport: true, bySeriesSupport: true, preferThresholdsMode: true }, defaultValue: { mode: FieldColorModeId.Thresholds } } } };

const plugins: Record<string, any> = {
  timeseries: named(
    'timeseries',
    new PanelPlugin(orNoData(TimeSeriesPanel))
      .useFieldConfig({
        standardOptions: { color: { settings: { byValueSupport: true, bySeriesSupport: true }, defaultValue: { mode: FieldColorModeId.PaletteClassic } } } as any,
        useCustomConfig: customOptions(TIME_SERIES_FIELD_OPTIONS),
      })
      .setDataSupport({ annotations: true, alertStates: false })
  ),
  stat: named('stat', new PanelPlugin(orNoData(StatPanel)).useFieldConfig(thresholdColors)),
  bargauge: named('bargauge', new PanelPlugin(orNoData(BarGaugePanel)).useFieldConfig(thresholdColors)),
  table: named('table', new PanelPlugin(orNoData(TablePanel)).useFieldConfig({ useCustomConfig: customOptions(TABLE_FIELD_OPTIONS) })),
  heatmap: named('heatmap', new PanelPlugin(orNoData(HeatmapPanel)).useFieldConfig()),
};

/** The plugin of a panel kind; an unknown kind gets one that says so, which the report calls an error. */
export const panelPlugin = (id: string) => plugins[id] ?? named(id, new PanelPlugin(Unknown(id)));
export const isKnownPanel = (id: string) => id in plugins;
