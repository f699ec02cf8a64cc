// SPDX-License-Identifier: Apache-2.0
// Annotations on time series: a dashed line with its title, where Grafana's own (unpublished) layer draws one.
import uPlot from 'uplot';
import { config } from '@grafana/runtime';

interface Mark {
  time: number;
  title: string;
  color: string;
}

function marksOf(frames: any[] | undefined): Mark[] {
  const marks: Mark[] = [];
  for (const frame of frames ?? []) {
    const column = (name: string) => frame.fields.find((field: any) => field.name === name)?.values ?? [];
    const [times, titles, colors] = [column('time'), column('title'), column('color')];
    for (let i = 0; i < frame.length; i++) {
      marks.push({ time: times[i], title: titles[i] ?? '', color: config.theme2.visualization.getColorByName(colors[i] ?? 'blue') });
    }
  }
  return marks;
}

const drawn = new WeakSet<object>();

/** Adds the marks to a plot, once for each configuration of it. */
export function addAnnotationMarks(builder: any, frames: any[] | undefined) {
  if (!builder || drawn.has(builder)) {
    return null;
  }
  const marks = marksOf(frames);
  if (!marks.length) {
    return null;
  }
  drawn.add(builder);
  builder.addHook('draw', (plot: uPlot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.font = `${11 * devicePixelRatio}px sans-serif`;
    for (const mark of marks) {
      const x = Math.round(plot.valToPos(mark.time, 'x', true));
      ctx.strokeStyle = ctx.fillStyle = mark.color;
      ctx.setLineDash([5, 4]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + bbox.height - 6);
      ctx.lineTo(x - 5, bbox.top + bbox.height);
      ctx.lineTo(x + 5, bbox.top + bbox.height);
      ctx.fill();
    }
    ctx.restore();
  });
  return null;
}
