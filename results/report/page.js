'use strict';
// The page of `mmuscope report`: everything it shows is computed from the data inside it.
(() => {
const data = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);

// --- small helpers -------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const svg = ['svg', 'rect', 'text', 'line', 'pattern', 'defs', 'path', 'title', 'g'];
  const node = svg.includes(name) ? document.createElementNS('http://www.w3.org/2000/svg', name)
                                  : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter(c => c !== null && c !== undefined));
  return node;
}

/// RFC 4180 text to an array of objects by column name.
function parseCsv(text) {
  const rows = [];
  let row = [], field = '', quoted = false;
  for (let i = 0; i < text.length; ++i) {
    const c = text[i];
    if (quoted) {
      if (c !== '"') field += c;
      else if (text[i + 1] === '"') { field += c; ++i; }
      else quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === ',') { row.push(field); field = ''; }
    else if (c === '\n') { row.push(field); rows.push(row); row = []; field = ''; }
    else if (c !== '\r') field += c;
  }
  if (field !== '' || row.length) { row.push(field); rows.push(row); }
  const header = rows.shift() || [];
  return {header, rows: rows.map(r => Object.fromEntries(header.map((h, i) => [h, r[i]])))};
}

const csvField = v => /[",\n\r]/.test(v) ? '"' + String(v).replaceAll('"', '""') + '"' : String(v);
const csvText = rows => rows.map(r => r.map(csvField).join(',') + '\n').join('');

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
  const a = element('a', {href: url, download: name});
  document.body.append(a);
  a.click();
  a.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function nice(v) {
  if (v === null || v === undefined || Number.isNaN(v)) return '';
  if (Number.isInteger(v) && Math.abs(v) < 1e6) return v.toLocaleString('en');
  const a = Math.abs(v);
  for (const [unit, size] of [['G', 1e9], ['M', 1e6], ['k', 1e4]]) {
    if (a >= size) return (v / (unit === 'k' ? 1e3 : size)).toPrecision(3) + ' ' + unit;
  }
  return Number(v.toPrecision(3)).toLocaleString('en');
}
const number = v => v === '' || v === undefined ? null : Number(v);
const median = values => {
  const s = [...values].sort((a, b) => a - b), m = s.length >> 1;
  return s.length % 2 ? s[m] : (s[m - 1] + s[m]) / 2;
};
const listing = words => words.length < 2 ? words.join('')
  : words.slice(0, -1).join(', ') + ' and ' + words[words.length - 1];

// --- the experiments -----------------------------------------------------------------------------

const suite = parseCsv(data.suite);
const processes = parseCsv(data.processes);
const vcpus = parseCsv(data.vcpus);
const experiments = suite.rows;
const split = list => Object.fromEntries((list || '').split(',').filter(Boolean).map(item => {
  const at = item.indexOf('=');
  return [item.slice(0, at), item.slice(at + 1)];
}));

/// Of rows with the same name, the parameters that are not the same in all of them.
function differing(rows, nameOf, paramsOf) {
  const seen = new Map();
  for (const r of rows) {
    const keys = seen.get(nameOf(r)) || new Map();
    seen.set(nameOf(r), keys);
    for (const [k, v] of Object.entries(split(paramsOf(r)))) {
      if (!keys.has(k)) keys.set(k, new Set());
      keys.get(k).add(v);
    }
  }
  return r => Object.entries(split(paramsOf(r)))
      .filter(([k]) => seen.get(nameOf(r)).get(k).size > 1).map(([k, v]) => k + '=' + v);
}
const withKeys = (name, keys) => name + (keys.length ? ':' + keys.join(',') : '');
const pagerKeys = differing(experiments, r => r.pager, r => r.pager_params);
/// Workloads that are given as much for each vCPU (processes=8 on 8) are one guest on more or fewer.
const everyVcpu = name => {
  const rows = experiments.filter(r => r.workload === name);
  const same = key => rows.every(r => split(r.workload_params)[key] === r.vcpus);
  return new Set(rows.map(r => r.vcpus)).size > 1
    ? new Set(Object.keys(split(rows[0].workload_params)).filter(same)) : new Set();
};
const perVcpu = new Map([...new Set(experiments.map(r => r.workload))].map(w => [w, everyVcpu(w)]));
const workloadKeys = differing(experiments, r => r.workload, r => Object.entries(split(r.workload_params))
  .map(([k, v]) => k + '=' + (perVcpu.get(r.workload).has(k) ? 'vCPUs' : v)).join(','));
const machineKeys = differing(experiments, () => '', r => r.machine_params);
const varies = name => new Set(experiments.map(r => r[name])).size > 1;
const alone = ['cpu', 'vms', 'seed'].filter(varies);
for (const r of experiments) {
  r.ok = r.status === 'ok';
  r.pagerLabel = withKeys(r.pager, pagerKeys(r));
  r.guestLabel = withKeys(r.workload, workloadKeys(r));
  r.rest = [...machineKeys(r), ...alone.map(n => n + '=' + r[n])].join(', ');
  const vcpus = r.vcpus + (r.vcpus === '1' ? ' vCPU' : ' vCPUs');
  r.settingLabel = [vcpus, r.rest].filter(Boolean).join(', ');
  r.guest = [r.guestLabel, r.settingLabel].join(' | ');
}
const pagers = [...new Set(experiments.map(r => r.pagerLabel))];
const get = (row, name) => number(row[name]);

// --- the verdict ---------------------------------------------------------------------------------

/// The pager that the others are held against: the first of the wanted names that is there.
function reference(wanted) {
  for (const name of wanted) {
    const found = pagers.find(p => experiments.some(r => r.ok && r.pager === name && r.pagerLabel === p));
    if (found) return found;
  }
  return pagers.find(p => experiments.some(r => r.ok && r.pagerLabel === p));
}

const okRows = label => experiments.filter(r => r.ok && r.pagerLabel === label);

/// In words how every other pager stands to the reference, in the guests that both ran.
function against(base, others, column, what) {
  const by = new Map(okRows(base).map(r => [r.guest, get(r, column)]));
  const told = [], only = [];
  let counted = 0;
  for (const label of others) {
    const both = okRows(label).filter(r => by.has(r.guest)).map(r => [get(r, column), by.get(r.guest)]);
    const ratios = both.filter(([x, y]) => x > 0 && y > 0).map(([x, y]) => x / y);
    const alone = both.filter(([x, y]) => x > 0 && !(y > 0)).length;
    counted = Math.max(counted, ratios.length);
    if (ratios.length > 1) told.push(`${label} ${nice(median(ratios))} times as many (${nice(Math.min(...ratios))} to ${nice(Math.max(...ratios))})`);
    else if (ratios.length) told.push(`${label} ${nice(ratios[0])} times as many`);
    else if (alone) only.push(label);
    else if (both.length) told.push(`${label} none`);
  }
  if (!told.length && !only.length) return null;
  const middle = counted > 1 ? `, in the median of ${counted} guests (least to most)` : '';
  return what + (told.length ? `, against ${base}${middle}: ${listing(told)}.` : ':') +
      (only.length ? ` ${base} has none at all, ${listing(only)} some.` : '');
}

/// Which pager took the fewest cycles, guest by guest.
function cheapest(labels) {
  const guests = new Map();
  for (const r of experiments) {
    if (r.ok && labels.includes(r.pagerLabel)) guests.set(r.guest, [...guests.get(r.guest) || [], r]);
  }
  const wins = new Map(labels.map(l => [l, []]));
  let counted = 0, even = 0;
  for (const rows of guests.values()) {
    if (rows.length < labels.length) continue;
    ++counted;
    const least = Math.min(...rows.map(r => get(r, 'cycles_total')));
    const best = rows.filter(r => get(r, 'cycles_total') === least);
    if (best.length > 1) ++even;
    else wins.get(best[0].pagerLabel).push(best[0]);
  }
  if (!counted || labels.length < 2) return null;
  const which = rows => {
    const names = [...new Set(rows.map(r => r.workload))];
    return rows.length ? ` (${listing(names.slice(0, 8))}${names.length > 8 ? ', …' : ''})` : '';
  };
  return `Fewest modelled cycles, of ${counted} guest${counted === 1 ? '' : 's'}: ` +
      listing(labels.map(l => `${l} in ${wins.get(l).length || 'none'}${which(wins.get(l))}`)) +
      (even ? `; ${even} with two alike` : '') + '.';
}

function writeVerdict() {
  const native = reference(['native']), nested = reference(['nested', 'native']);
  const except = base => pagers.filter(p => p !== base);
  const virtual = pagers.filter(p => experiments.some(r => r.pagerLabel === p && r.pager !== 'native'));
  const items = experiments.length ? [
    against(native, except(native), 'cycles_total', 'Modelled cycles'),
    cheapest(virtual),
    against(nested, virtual.filter(p => p !== nested), 'exits', 'VM exits'),
    against(nested, virtual.filter(p => p !== nested), 'pager_bytes_peak', "Bytes of the hypervisor's tables, with bookkeeping, at their peak"),
    against(native, except(native), 'table_refs', 'Table entries read by the page walker'),
  ].filter(Boolean) : [];
  const failed = experiments.filter(r => !r.ok);
  if (failed.length) items.push(`${failed.length} of ${experiments.length} experiments could not ` +
      `go on and are left out: ${listing([...new Set(failed.map(r => r.pagerLabel))])}.`);
  const list = element('ul', {}, ...items.map(t => element('li', {}, t)));
  const none = element('p', {}, 'The suite ran no guest under two pagers, so there is nothing to ' +
      'compare in words.');
  $('verdict').append(items.length ? list : none, element('p', {class: 'small'},
      'Exits, bytes and references are counts of an emulator. Cycles are those counts times ' +
      'prices from the literature: data caches, pipelines and contention for memory are not ' +
      'modelled, so a small difference in cycles decides nothing.'));
}

// --- charts --------------------------------------------------------------------------------------

const colours = ['#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#f0e442', '#777777'];
/// A pattern over each colour tells the parts apart without colour.
const strokes = ['', 'M0 8 L8 0', 'M4 0 V8', 'M0 4 H8', 'M0 0 L8 8', 'M0 8 L8 0 M0 0 L8 8', 'M2 2 h2 v2 h-2 z M6 6 h2 v2 h-2 z', 'M4 0 V8 M0 4 H8'];
const fill = i => `url(#fill${i % colours.length})`;
function addPatterns() {
  const defs = element('defs', {}, ...colours.map((c, i) =>
    element('pattern', {id: 'fill' + i, width: 8, height: 8, patternUnits: 'userSpaceOnUse'},
      element('rect', {width: 8, height: 8, fill: c}),
      element('path', {d: strokes[i] || 'M0 0', stroke: '#000', 'stroke-opacity': .55, 'stroke-width': 1.3, fill: 'none'}))));
  document.body.append(element('svg', {width: 0, height: 0, 'aria-hidden': 'true', style: 'position:absolute'}, defs));
}

function legend(names) {
  return element('ul', {class: 'legend'}, ...names.map((n, i) => element('li', {},
    element('svg', {viewBox: '0 0 18 12', 'aria-hidden': 'true'},
      element('rect', {width: 18, height: 12, fill: fill(i), stroke: '#000', 'stroke-width': .5})), n)));
}

function dataTable(header, rows) {
  return element('table', {},
    element('thead', {}, element('tr', {}, ...header.map((h, i) =>
      element('th', {scope: 'col', class: i ? '' : 'text'}, h)))),
    element('tbody', {}, ...rows.map(r => element('tr', {}, ...r.map((v, i) => i
      ? element('td', {}, typeof v === 'number' ? Number(v.toPrecision(6)).toLocaleString('en') : v ?? '')
      : element('th', {scope: 'row', class: 'text'}, v))))));
}

/// A figure with its chart, its numbers as a table, and these as CSV.
function figure(id, title, caption, drawing, names, header, rows) {
  const csv = csvText([header, ...rows.map(r => r.map(v => v ?? ''))]);
  const heading = id + '-title';
  return element('figure', {id, 'aria-labelledby': heading},
    element('h3', {id: heading}, title), element('figcaption', {}, caption),
    names ? legend(names) : null, drawing,
    element('details', {}, element('summary', {}, 'Numbers of this chart'),
      element('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': title + ', numbers'}, dataTable(header, rows)),
      element('button', {type: 'button', class: 'csv', 'data-csv': csv,
                         onclick: () => download(id + '.csv', csv)}, 'Download as CSV')));
}

const narrow = () => innerWidth < 600;
function ticks(max) {
  const rough = max / (narrow() ? 2 : 4), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
  return Array.from({length: Math.floor(max / step + 1e-9) + 1}, (_, i) => i * step);
}

/// Horizontal bars: a line for each label; parts stand one after another or, if not `stacked`,
/// under one another. Null is no value.
function bars(title, labels, parts, stacked) {
  const left = 8, width = narrow() ? 340 : 560, right = 62, height = 20;
  const lines = stacked ? 1 : parts.length, gap = 26;
  const sums = labels.map((_, i) => parts.reduce((s, p) => s + (p.values[i] ?? 0), 0));
  const max = Math.max(...(stacked ? sums : parts.flatMap(p => p.values.map(v => v ?? 0)))) || 1;
  const x = v => v / max * (width - left - right);
  const total = labels.length * (lines * height + gap) + 24;
  const svg = element('svg', {viewBox: `0 0 ${width} ${total}`, role: 'img',
    'aria-label': title + ': ' + labels.map((l, i) => `${l} ${stacked ? nice(sums[i])
      : parts.map(p => `${p.name} ${nice(p.values[i])}`).join(', ')}`).join('; ')});
  for (const t of ticks(max)) {
    svg.append(element('line', {x1: left + x(t), x2: left + x(t), y1: 0, y2: total - 20, stroke: '#ddd'}),
      element('text', {x: left + x(t), y: total - 6, 'text-anchor': t ? 'middle' : 'start'}, nice(t)));
  }
  labels.forEach((label, i) => {
    const top = i * (lines * height + gap);
    svg.append(element('text', {x: left, y: top + 15, 'font-weight': 'bold'}, label));
    let at = left;
    parts.forEach((p, j) => {
      const v = p.values[i] ?? 0, w = x(v), y = top + 20 + (stacked ? 0 : j * height);
      if (v > 0) svg.append(element('rect', {x: at, y, width: Math.max(w, .5), height: height - 3,
        fill: fill(j), stroke: '#000', 'stroke-width': .5, 'data-label': label, 'data-part': p.name,
        'data-value': v}, element('title', {}, `${label}, ${p.name}: ${nice(v)}`)));
      if (stacked) at += w;
      else svg.append(element('text', {x: left + w + 4, y: y + 13}, p.values[i] === null ? 'does not apply' : nice(v)));
    });
    if (stacked) svg.append(element('text', {x: at + 4, y: top + 33}, nice(sums[i])));
  });
  return svg;
}

function barFigure(id, title, caption, rows, parts, stacked = true) {
  const used = stacked ? parts.filter(p => rows.some(r => (p.of(r) ?? 0) > 0)) : parts;
  const labels = rows.map(r => r.pagerLabel);
  const series = used.map(p => ({name: p.name, values: rows.map(p.of)}));
  const table = rows.map((r, i) => [labels[i], ...series.map(s => s.values[i])]);
  const drawing = used.length ? bars(title, labels, series, stacked)
                              : element('p', {}, 'None under any of these pagers.');
  return figure(id, title, caption, drawing, used.map(p => p.name), ['pager', ...used.map(p => p.name)], table);
}

let plots = [];
const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [1, 4], [12, 4], [3, 1]];
/// Marks of the points of a line, as paths about 0 0: disc, square, triangle, diamond.
const marks = ['M5 0 A5 5 0 1 1 -5 0 A5 5 0 1 1 5 0 Z', 'M-4.5 -4.5 H4.5 V4.5 H-4.5 Z', 'M0 -6 L5.5 4.5 H-5.5 Z', 'M0 -6 L6 0 L0 6 L-6 0 Z'];

function lineLegend(names) {
  return element('ul', {class: 'legend lines'}, ...names.map((n, i) => element('li', {},
    element('svg', {viewBox: '0 0 48 14', 'aria-hidden': 'true'},
      element('line', {x1: 0, x2: 48, y1: 7, y2: 7, stroke: colours[i % 8], 'stroke-width': 2.5, 'stroke-dasharray': dashes[i % 8].join(' ')}),
      element('path', {d: marks[i % 4], transform: 'translate(24 7)', fill: i % 8 < 4 ? colours[i % 8] : '#fff', stroke: colours[i % 8], 'stroke-width': 1.5})), n)));
}

/// Draws the points of a line with its mark, over what uPlot drew of the line.
function drawMarks(u, index) {
  const shape = new Path2D(marks[(index - 1) % 4]), c = u.ctx;
  u.data[index].forEach((v, i) => {
    if (v === null || v === undefined) return;
    c.save();
    c.translate(u.valToPos(u.data[0][i], 'x', true), u.valToPos(v, 'y', true));
    c.scale(devicePixelRatio, devicePixelRatio);
    c.lineWidth = 1.5;
    c.strokeStyle = colours[(index - 1) % 8];
    c.fillStyle = (index - 1) % 8 < 4 ? c.strokeStyle : '#fff';
    c.fill(shape);
    c.stroke(shape);
    c.restore();
  });
}

/// A line for each pager over xs, of which xName says what they are; where these double, both scales
/// are logarithmic.
function linesFigure(id, title, caption, xName, xs, series, doubling = false) {
  const holder = element('div', {role: 'img', 'aria-label': `${title}, by ${xName}: ` + series.map(s =>
    `${s.name} ${s.values.map((v, i) => `${nice(v)} at ${xs[i]}`).join(', ')}`).join('; ')});
  const table = xs.map((x, i) => [String(x), ...series.map(s => s.values[i])]);
  const drawing = element('div', {}, lineLegend(series.map(s => s.name)), holder);
  const node = figure(id, title, caption, drawing, null, [xName, ...series.map(s => s.name)], table);
  const labelled = narrow() ? xs.filter((_, i) => i % Math.ceil(xs.length / 8) === 0) : xs;
  const draw = () => {
    const width = Math.max(holder.clientWidth, 200);
    const plot = new uPlot({width, height: 260, legend: {markers: {show: false}},
      scales: doubling ? {x: {time: false, distr: 3, log: 2}, y: {distr: 3}}
        : {x: {time: false, range: (u, lo, hi) => [lo - (hi - lo) / 40, hi + (hi - lo) / 40]}, y: {range: (u, lo, hi) => [0, hi > 0 ? hi * 1.08 : 1]}},
      axes: [{splits: () => labelled, values: (u, v) => v.map(String), label: xName, size: 34, labelSize: 20},
             {size: 64, values: (u, v) => v.map(nice)}],
      series: [{label: xName}, ...series.map((s, i) => ({label: s.name, stroke: colours[i % 8],
        width: 2, dash: dashes[i % 8], points: {show: u => { drawMarks(u, i + 1); return false; }}, value: (u, v) => nice(v)}))]},
      [xs, ...series.map(s => s.values)], holder);
    plots.push({plot, holder});
  };
  return {node, draw};
}
addEventListener('resize', () => {
  for (const {plot, holder} of plots) plot.setSize({width: Math.max(holder.clientWidth, 200), height: 260});
});

// --- the comparison ------------------------------------------------------------------------------

const option = text => element('option', {value: text}, text);
const hidden = new Set();
const shown = r => !hidden.has(r.pagerLabel);
function chosen() {
  return experiments.filter(r => r.guestLabel === $('workload').value && r.settingLabel === $('setting').value);
}

function fillSettings() {
  const before = $('setting').value;
  const settings = [...new Set(experiments.filter(r => r.guestLabel === $('workload').value).map(r => r.settingLabel))];
  $('setting').replaceChildren(...settings.map(option));
  if (settings.includes(before)) $('setting').value = before;
}

const reasons = suite.header.filter(h => h.startsWith('exits_'));
const part = (name, column, per) => ({name, of: r => {
  const v = get(r, column);
  if (v === null || !per) return v;
  const n = get(r, per);
  return n > 0 ? v / n : null;
}});

/// What is modelled of vCPUs that get in each other's way: costs for each guest access.
const syncCosts = [['sync', 'Cost of synchronisation by vCPUs', 'Modelled cycles of locks, interrupts between CPUs and remote flushes, a guest access.', ['cycles_sync']],
  ['waiting', 'Waiting by vCPUs', 'Modelled cycles in which a vCPU waited for a lock or for others to flush, a guest access.', ['lock_wait_cycles', 'flush_wait_cycles']]]
  .filter(([, , , columns]) => columns.every(c => suite.header.includes(c)));

function syncFigures(rows) {
  const same = experiments.filter(r => r.ok && shown(r) && r.guestLabel === rows[0].guestLabel && r.rest === rows[0].rest);
  const xs = [...new Set(same.map(r => get(r, 'vcpus')))].sort((a, b) => a - b);
  const names = [...new Set(same.map(r => r.pagerLabel))];
  const at = (n, x) => same.find(r => r.pagerLabel === n && get(r, 'vcpus') === x);
  const cost = (r, columns) => r ? columns.reduce((s, c) => s + get(r, c), 0) / get(r, 'accesses') : null;
  return syncCosts.map(([id, title, caption, columns]) => xs.length < 2
    ? barFigure(id, title, caption + ` This suite ran the guest with ${xs[0]} vCPU${xs[0] === 1 ? '' : 's'} only.`, rows, [{name: title, of: r => cost(r, columns)}])
    : linesFigure(id, title, caption, 'vCPUs', xs, names.map(name => ({name, values: xs.map(x => cost(at(name, x), columns))}))));
}

/// Time of the run over native's, by vCPUs: a line for each pager and, where the suite has several,
/// each kind of lock.
function elapsedFigure(rows) {
  const lock = r => split(r.machine_params).lock;
  const apart = r => r.rest.split(', ').filter(k => !k.startsWith('lock=')).join(', ');
  const same = experiments.filter(r => r.ok && shown(r) && r.guestLabel === rows[0].guestLabel && apart(r) === apart(rows[0]) && get(r, 'cycles_elapsed') > 0);
  const xs = [...new Set(same.map(r => get(r, 'vcpus')))].sort((a, b) => a - b);
  const natives = experiments.filter(r => r.ok && r.pager === 'native' && r.guestLabel === rows[0].guestLabel && apart(r) === apart(rows[0]) && get(r, 'cycles_elapsed') > 0);
  const native = new Map(natives.map(r => [get(r, 'vcpus'), get(r, 'cycles_elapsed')]));
  if (xs.length < 2 || xs.some(x => !native.has(x))) return null;
  const several = new Set(same.map(lock)).size > 1;
  const name = r => r.pagerLabel + (several ? ', lock=' + lock(r) : '');
  const others = same.filter(r => r.pager !== 'native');
  // Kinds of lock that make no difference to a pager share a line.
  const series = [];
  for (const n of new Set(others.map(name))) {
    const mine = xs.map(x => others.find(r => name(r) === n && get(r, 'vcpus') === x));
    const values = mine.map((r, i) => r ? get(r, 'cycles_elapsed') / native.get(xs[i]) : null);
    const [pager, kind] = [mine.find(Boolean).pagerLabel, lock(mine.find(Boolean))];
    const like = series.find(s => s.pager === pager && String(s.values) === String(values));
    if (like) like.name += ' or ' + kind;
    else series.push({name: n, pager, values});
  }
  if (!series.length) return null;
  return linesFigure('elapsed', 'Time over native\'s by vCPUs', 'Modelled time from the beginning to the end of the run, as a multiple of what the same guest takes without virtualization.', 'vCPUs', xs, series, true);
}

const vcpuWords = {cycles_total: 'Modelled cycles', exits: 'VM exits', ipis_sent: 'Interrupts sent to other CPUs',
  ipis_received: 'Interrupts received', lock_wait_cycles: 'Cycles waiting for locks', flush_wait_cycles: 'Cycles waiting for flushes'};
let vcpuColumn = 'cycles_total';

/// How evenly the work lies on the vCPUs: a line for each pager over the vCPUs of the guest.
function vcpuFigure(rows) {
  const name = v => several ? `${v.vm}.${v.vcpu}` : v.vcpu;
  const cells = new Map(rows.map(r => [r.cell, r.pagerLabel]));
  const mine = vcpus.rows.filter(v => cells.has(v.cell));
  const several = new Set(mine.map(v => v.vm)).size > 1;
  const xs = [...new Set(mine.map(name))].map((_, i) => i);
  if (xs.length < 2) return null;
  const series = rows.map(r => ({name: r.pagerLabel, values: mine.filter(v => v.cell === r.cell).map(v => number(v[vcpuColumn]))}));
  const made = linesFigure('vcpus', 'By vCPU', `${vcpuWords[vcpuColumn]} of each vCPU of this guest.` + (several ? ' Those of the second VM come after the first\'s.' : ''), 'vCPU', xs, series);
  const choice = element('select', {id: 'vcpu-column', onchange: e => { vcpuColumn = e.target.value; drawComparison(); $('vcpu-column').focus(); }},
    ...Object.keys(vcpuWords).filter(c => vcpus.header.includes(c)).map(c => element('option', {value: c}, vcpuWords[c])));
  choice.value = vcpuColumn;
  made.node.querySelector('figcaption').after(element('div', {class: 'controls'}, element('label', {}, 'Shown', choice)));
  return made;
}

/// The most a process needed, where its pager has tables for each.
function processFigure(rows) {
  const cells = new Map(rows.map(r => [r.cell, r.pagerLabel]));
  const table = processes.rows.filter(p => cells.has(p.cell))
      .map(p => [cells.get(p.cell), p.pid || '', p.name, number(p.guest_table_bytes), number(p.pager_bytes), number(p.exits)]);
  const figureOf = barFigure('memory', 'Memory of the hypervisor\'s tables, bytes',
    'Private to one guest process (mean and most), and all that the VM needed at its peak, with bookkeeping. Nested tables belong to the VM, so no process has any of its own.',
    rows, [part('a process, mean', 'pager_bytes_per_process_mean'), part('a process, most', 'pager_bytes_per_process_max'), part('the VM, peak', 'pager_bytes_peak')], false);
  const limit = 200;
  if (table.length) figureOf.append(element('details', {}, element('summary', {}, `Processes (${table.length} rows)`),
    element('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Processes'},
      dataTable(['pager', 'pid', 'name', 'guest table bytes', 'pager bytes', 'exits'], table.slice(0, limit))),
    table.length > limit ? element('p', {}, `The first ${limit}; the CSV has all.`) : null,
    element('button', {type: 'button', onclick: () => download('processes.csv',
      csvText([['pager', 'pid', 'name', 'guest_table_bytes', 'pager_bytes', 'exits'], ...table.map(r => r.map(v => v ?? ''))]))}, 'Download as CSV')));
  return figureOf;
}

function drawComparison() {
  const all = chosen().filter(shown), rows = all.filter(r => r.ok), failed = all.filter(r => !r.ok);
  for (const {plot} of plots) plot.destroy();
  plots = [];
  const slow = rows.filter(r => r.slowdown_vs_native).map(r => `${r.pagerLabel} ${nice(get(r, 'slowdown_vs_native'))}`);
  $('guest-words').textContent = `${$('workload').value}, ${$('setting').value}: ` +
      (rows.length ? `${nice(Math.max(...rows.map(r => get(r, 'accesses'))))} guest accesses.` : 'no pager is chosen.') +
      (slow.length ? ` Modelled time as a multiple of native's: ${slow.join(', ')}.` : '') +
      failed.map(r => ` ${r.pagerLabel} could not go on: ${r.status}.`).join('');
  if (!rows.length) { $('charts').replaceChildren(); return; }
  const drawn = [elapsedFigure(rows), ...syncFigures(rows), vcpuFigure(rows)].filter(Boolean);
  $('charts').replaceChildren(
    barFigure('exits', 'VM exits by reason', 'How often the guest was left, and why.', rows,
      reasons.map(c => part(c.slice(6).replaceAll('_', ' '), c))),
    barFigure('cycles', 'Modelled cycles by component', 'What the events cost by the cost model, summed over vCPUs.', rows,
      ['guest', 'walk', 'exit', 'vmm', 'sync'].map(c => part(c === 'vmm' ? 'hypervisor' : c, 'cycles_' + c))),
    barFigure('refs', 'Table entries read a walk', 'Means over all hardware page walks, by whose table was read.', rows,
      [['guest tables', 'guest'], ['shadow tables', 'shadow'], ['nested tables', 'nested']].map(([n, c]) => part(n, 'table_refs_' + c, 'walks'))),
    processFigure(rows), ...drawn.map(d => d.node || d));
  for (const d of drawn) if (d.draw) d.draw();
}

// --- the table -----------------------------------------------------------------------------------

const groups = new Map();
for (const c of data.columns) {
  if (c.kind === 'identity' || !suite.header.includes(c.name)) continue;
  if (!groups.has(c.group || 'other')) groups.set(c.group || 'other', []);
  groups.get(c.group || 'other').push(c.name);
}
const meanings = new Map(data.columns.map(c => [c.name, c.meaning + (c.unit ? ` (${c.unit})` : '')]));
const main = ['exits', 'table_refs', 'refs_per_walk', 'guest_page_faults', 'pager_table_bytes_peak', 'cycles_total', 'slowdown_vs_native'];
let sortBy = null, descending = true;

function tableRows() {
  const rows = experiments.filter(shown).filter(r => $('rows').value === 'all' || r.guestLabel === $('workload').value);
  if (!sortBy) return rows;
  const value = r => ['guestLabel', 'pagerLabel', 'settingLabel'].includes(sortBy) ? r[sortBy] : get(r, sortBy) ?? -Infinity;
  return [...rows].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (descending ? -1 : 1));
}
const tableColumns = () => $('columns').value === 'main' ? main.filter(c => suite.header.includes(c)) : groups.get($('columns').value);
function tableData() {
  const columns = tableColumns();
  return [['workload', 'setting', 'pager', ...columns],
          ...tableRows().map(r => [r.guestLabel, r.settingLabel, r.pagerLabel, ...columns.map(c => r[c])])];
}

function drawTable() {
  const columns = [['guestLabel', 'workload'], ['settingLabel', 'setting'], ['pagerLabel', 'pager'], ...tableColumns().map(c => [c, c])];
  const head = columns.map(([key, name], i) => {
    const state = sortBy !== key ? 'none' : descending ? 'descending' : 'ascending';
    const mark = {none: '', descending: ' ▼', ascending: ' ▲'}[state];
    return element('th', {scope: 'col', 'aria-sort': state, class: i < 3 ? 'text' : ''},
      element('button', {type: 'button', 'data-sort': key, title: meanings.get(name) || '', onclick: () => {
        descending = sortBy === key ? !descending : i >= 3;
        sortBy = key;
        drawTable();
        document.querySelector(`[data-sort="${key}"]`).focus();
      }}, name.replaceAll('_', ' ') + mark));
  });
  const body = tableData().slice(1).map(r => element('tr', {}, ...r.map((v, i) =>
    element('td', {class: i < 3 ? 'text' : ''}, i < 3 || v === '' ? v : Number(v).toLocaleString('en', {maximumSignificantDigits: 9})))));
  $('numbers').replaceChildren(element('caption', {class: 'small'}, `${body.length} experiments; a heading sorts by its column`),
    element('thead', {}, element('tr', {}, ...head)), element('tbody', {}, ...body));
}

// --- narrations: the walk explorer and the life of a PTE write -----------------------------------

const entryNames = ['', 'PTE', 'PDE', 'PDPTE', 'PML4E', 'PML5E'];
const isSecond = t => t === 'EPT' || t === 'NPT';
function wordsOf(t) {
  if (t.kind !== 'entry') return t.words || '';
  const where = t.table === 'shadow' ? '' : t.gpa ? `, guest-physical ${t.gpa}` : t.for ? `, to translate ${t.final ? 'the page' : "a guest table's address"} ${t.for}` : '';
  return `reads the ${t.table} ${entryNames[t.level]} at ${t.at}${where}: ${t.value} (${t.bits})`;
}
const cyclesOf = c => `${nice(c)} cycle${c === 1 ? '' : 's'}`;
const steps = n => n.told.filter(t => wordsOf(t) !== '');

/// What each step does to the picture of a walk: a cell (row and column) that is read, or cells
/// that a cache made needless. Rows are guest levels, 0 the page; columns second levels, 0 the
/// guest's entry itself.
function picture(n) {
  let row = n.guest_levels, count = 0;
  return steps(n).map(t => {
    const p = {clear: false, read: null, saved: []};
    if (t.kind === 'walk') { row = n.guest_levels; p.clear = true; }
    if (t.kind === 'entry') {
      ++count;
      const at = isSecond(t.table) ? [t.final ? 0 : row, t.level] : [t.level, 0];
      p.read = {at, count};
      if (!isSecond(t.table)) row = t.level - 1;
    }
    if (t.kind === 'cached') {
      const levels = [1, 2, 3, 4, 5];
      if (t.cache === 'paging-structure') {
        for (let l = n.guest_levels; l > t.level; --l) p.saved.push([l, 0], ...levels.map(c => [l, c]));
        p.saved.push(...levels.map(c => [t.level, c]));
        row = t.level;
      } else {
        const at = t.final ? 0 : row;
        p.saved.push(...levels.filter(c => t.cache === 'nested-tlb' || c > t.level).map(c => [at, c]));
      }
    }
    return p;
  });
}

function walkTable(n, upTo, second, name) {
  const secondLevels = second ? Number(second.slice(4)) : 0;
  const cells = new Map();
  let now = null;
  picture(n).slice(0, upTo).forEach((p, i) => {
    now = null;
    if (p.clear) cells.clear();
    for (const at of p.saved) cells.set(at.join(), {saved: true});
    if (p.read) { now = p.read.at.join(); cells.set(now, {count: p.read.count}); }
  });
  const columns = secondLevels ? [...Array(secondLevels).keys()].map(i => secondLevels - i) : [];
  const cell = (row, column) => {
    const c = cells.get([row, column].join()) || {};
    return element('td', {class: [column ? '' : 'guest', c.count ? 'read' : '', c.saved ? 'saved' : '', now === [row, column].join() ? 'now' : ''].join(' ').trim(),
      'data-cell': row + ',' + column}, c.count ? String(c.count) : c.saved ? 'cached' : '');
  };
  const rows = [];
  for (let l = n.guest_levels; l >= 1; --l) {
    if (!n.rows.has(l)) continue;
    rows.push(element('tr', {}, element('th', {scope: 'row'}, entryNames[l]), ...columns.map(c => cell(l, c)), cell(l, 0)));
  }
  if (secondLevels) rows.push(element('tr', {}, element('th', {scope: 'row'}, 'the page'), ...columns.map(c => cell(0, c)), element('td', {}, '—')));
  return element('table', {}, element('caption', {class: 'small'}, name),
    element('thead', {}, element('tr', {}, element('td', {}), ...columns.map(c => element('th', {scope: 'col'}, `${second.slice(0, 3).toUpperCase()} ${entryNames[c]}`)),
      element('th', {scope: 'col'}, secondLevels ? 'guest entry' : 'entry'))), element('tbody', {}, ...rows));
}

const toldList = (n, upTo) => element('ol', {class: 'told'}, ...steps(n).map((t, i) =>
  element('li', {class: i === upTo - 1 ? 'now' : i >= upTo ? 'later' : ''}, element('span', {class: t.kind === 'entry' ? 'entry' : ''}, wordsOf(t)))));

const walkFields = [
  ['kind', 'Access', [['load', 'load'], ['store', 'store']]],
  ['guest_levels', 'Guest tables', [['4', '4 levels'], ['5', '5 levels']]],
  ['second', 'Nested tables', [['ept-4', 'EPT, 4 levels'], ['ept-5', 'EPT, 5 levels'], ['npt-4', 'NPT, 4 levels']]],
  ['guest_page', 'Guest page', [['4k', '4 KiB'], ['2m', '2 MiB'], ['1g', '1 GiB']]],
  ['host_page', 'Host page', [['4k', '4 KiB'], ['2m', '2 MiB'], ['1g', '1 GiB']]],
  ['caches', 'Walk caches', [['off', 'none'], ['1d', 'by guest-virtual address'], ['2d', 'and by guest-physical'], ['2d+ntlb', 'and a nested TLB']]],
  ['before', 'Done before', [['cold', 'page used, then all caches flushed'], ['near', 'and then the page beside'], ['flushed', 'page used, then MOV to CR3'], ['read', 'page loaded from, then all flushed'], ['nothing', 'nothing: first touch']]],
];
let walkStep = 1;
function walksChosen() {
  const v = Object.fromEntries(walkFields.map(([id]) => [id, $('walk-' + id).value]));
  if (v.before === 'nothing' && v.caches.startsWith('2d')) v.caches = '1d';
  if (v.before === 'read' && v.kind === 'load') v.before = 'cold';
  const one = v.caches === 'off' ? 'off' : '1d';
  const keys = {native: ['native', v.guest_levels, '-', v.guest_page, '4k', one, v.before],
    shadow: ['shadow', v.guest_levels, '-', v.guest_page, v.host_page, one, v.before],
    nested: ['nested', v.guest_levels, v.second, v.guest_page, v.host_page, v.caches, v.before]};
  return Object.fromEntries(Object.entries(keys).map(([name, key]) => {
    const run = data.walks.runs[data.walks.of[[v.kind, ...key].join('/')]];
    const n = {...run, told: run.told.map(i => data.walks.told[i])};
    const lowest = Math.min(...n.told.filter(t => t.kind === 'entry' && !isSecond(t.table)).map(t => t.level), 5);
    n.rows = new Set([1, 2, 3, 4, 5].filter(l => l >= lowest && l <= n.guest_levels));
    return [name, n];
  }));
}

function drawWalks() {
  const walks = walksChosen();
  const last = Math.max(...Object.values(walks).map(n => steps(n).length));
  walkStep = Math.min(Math.max(walkStep, 1), last);
  $('walk-count').textContent = `step ${walkStep} of ${last}`;
  const now = steps(walks.nested)[Math.min(walkStep, steps(walks.nested).length) - 1];
  $('walk-words').textContent = 'Nested: ' + wordsOf(now) + '.';
  const panel = ([name, n]) => element('section', {class: 'walk ' + name, 'data-pager': name},
    element('h3', {}, name), element('p', {},
      element('span', {class: 'badge refs'}, `${n.references} entries read`),
      element('span', {class: 'badge'}, `${n.exits} exit${n.exits === 1 ? '' : 's'}`),
      element('span', {class: 'badge'}, cyclesOf(n.cycles))),
    walkTable(n, walkStep, name === 'nested' ? $('walk-second').value : '',
      name === 'nested' ? 'a row for each guest-physical address, left to right' : name === 'shadow' ? 'shadow tables, top down' : 'guest tables, top down'),
    element('details', name === 'nested' ? {open: ''} : {}, element('summary', {}, 'Everything that happens'), toldList(n, walkStep)));
  const open = new Map([...document.querySelectorAll('#walk-panels section')].map(s => [s.dataset.pager, s.querySelector('details').open]));
  $('walk-panels').replaceChildren(...[['nested', walks.nested], ['shadow', walks.shadow], ['native', walks.native]].map(panel));
  for (const s of document.querySelectorAll('#walk-panels section')) {
    if (open.has(s.dataset.pager)) s.querySelector('details').open = open.get(s.dataset.pager);
    const list = s.querySelector('.told'), item = s.querySelector('li.now');
    if (item) list.scrollTop = item.offsetTop - list.offsetTop - 60;
  }
}

function startWalks() {
  $('walk-form').append(...walkFields.map(([id, label, choices]) => element('label', {}, label,
    element('select', {id: 'walk-' + id, onchange: () => { walkStep = 1; drawWalks(); }}, ...choices.map(([v, t]) => element('option', {value: v}, t))))));
  $('walk-caches').value = 'off';
  const go = f => () => { walkStep = f(walkStep); drawWalks(); };
  $('walk-first').onclick = go(() => 1);
  $('walk-back').onclick = go(s => s - 1);
  $('walk-next').onclick = go(s => s + 1);
  $('walk-last').onclick = go(() => Infinity);
  $('walk-panels').addEventListener('keydown', e => {
    if (e.key === 'ArrowRight') go(s => s + 1)();
    else if (e.key === 'ArrowLeft') go(s => s - 1)();
    else return;
    e.preventDefault();
  });
  // On paper a walk is shown whole.
  let before = 1;
  addEventListener('beforeprint', () => { before = walkStep; walkStep = Infinity; drawWalks(); });
  addEventListener('afterprint', () => { walkStep = before; drawWalks(); });
  drawWalks();
}

let lifeStep = 0;
const components = ['guest', 'walk', 'exit', 'vmm', 'sync'];
function drawLife() {
  const count = data.lives[0].steps.length;
  lifeStep = Math.min(Math.max(lifeStep, 0), count - 1);
  $('life-count').textContent = `step ${lifeStep + 1} of ${count}`;
  const title = data.lives[0].steps[lifeStep].title;
  $('life-title').textContent = `${lifeStep + 1}. ${title[0].toUpperCase()}${title.slice(1)}.`;
  $('life-panels').replaceChildren(...data.lives.map(l => {
    const n = l.steps[lifeStep];
    const exits = Object.entries(n.counters).filter(([k, v]) => k.startsWith('exits_') && v);
    return element('section', {'data-pager': l.pager}, element('h3', {}, l.pager), element('p', {},
      ...(exits.length ? exits.map(([k, v]) => element('span', {class: 'badge exit'}, `${v} exit: ${k.slice(6).replaceAll('_', ' ')}`)) : [element('span', {class: 'badge'}, 'no exit')]),
      element('span', {class: 'badge'}, cyclesOf(n.cycles.total))), toldList(n, Infinity),
      element('p', {class: 'small'}, n.ended === 'done' ? '' : n.ended));
  }));
}

function startLife() {
  $('life-back').onclick = () => { --lifeStep; drawLife(); };
  $('life-next').onclick = () => { ++lifeStep; drawLife(); };
  drawLife();
  const labels = data.lives.map(l => l.pager);
  const titles = data.lives[0].steps.map((s, i) => `${i + 1}. ${s.title}`);
  const cycles = titles.map((t, i) => ({name: t, values: data.lives.map(l => l.steps[i].cycles.total)}));
  const exits = titles.map((t, i) => ({name: t, values: data.lives.map(l => Object.entries(l.steps[i].counters).filter(([k]) => k.startsWith('exits_')).reduce((s, [, v]) => s + v, 0))}));
  for (const [id, title, parts] of [['life-exits', 'VM exits of the whole life, by step', exits], ['life-cycles', 'Modelled cycles of the whole life, by step', cycles]]) {
    $('life-chart').append(figure(id, title, 'What all the steps above add up to.', bars(title, labels, parts, true), titles,
      ['pager', ...titles], labels.map((l, i) => [l, ...parts.map(p => p.values[i])])));
  }
}

// --- published results ---------------------------------------------------------------------------

const verdictMark = v => /^(ok|exact|true)$/.test(v) ? '✓ ' : '✗ ';
/// A table for each part, a row for each result, and under the row why it misses.
function startPublished() {
  if (!data.published) return;
  const {rows} = parseCsv(data.published);
  for (const r of rows) r.ran = `${r.workload}${r.settings && ', '}${r.settings}: ${r.quantity}${r.over && ' over '}${r.over}`;
  const holds = r => verdictMark(r.verdict) === '✓ ';
  const tests = rows.filter(r => r.calibration === 'no');
  $('published').hidden = $('published-link').hidden = false;
  $('published-words').textContent = `What others published, and what the emulator makes of it with one set of prices: ${tests.filter(holds).length} of ${tests.length} tests hold. ` +
      `${rows.length - tests.length} more rows gave a price and test nothing.`;
  $('published-csv').onclick = () => download('published.csv', data.published);
  const columns = [['row', 'Result', 'text'], ['published', 'Published', ''], ['ours', 'Ours', ''], ['off_by', 'Off by', ''], ['tolerance', 'Within a factor of', ''],
    ['verdict', 'Verdict', 'text'], ['ran', 'What ran', 'text'], ['vcpus', 'vCPUs', ''], ['source', 'Source', 'text']];
  const verdict = r => [verdictMark(r.verdict) + r.verdict + (r.calibration === 'yes' ? ', calibration' : ''), r.why ? element('span', {class: 'small why'}, r.why) : null];
  const line = r => element('tr', {}, ...columns.map(([c, , kind], i) => i ? element('td', {class: kind, 'data-column': c}, ...(c === 'verdict' ? verdict(r) : [r[c]]))
    : element('th', {scope: 'row', class: kind}, r[c])));
  for (const section of new Set(rows.map(r => r.section))) {
    $('published-tables').append(element('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': section},
      element('table', {class: 'published'}, element('caption', {class: 'text'}, section),
        element('thead', {}, element('tr', {}, ...columns.map(([, h, kind]) => element('th', {scope: 'col', class: kind}, h)))),
        element('tbody', {}, ...rows.filter(r => r.section === section).map(line)))));
  }
}

// --- begin ---------------------------------------------------------------------------------------

addPatterns();
const name = experiments.length ? experiments[0].suite : '';
$('about').textContent = `Suite ${name || 'without a name'}: ${experiments.length} experiments, ${new Set(experiments.map(r => r.guest)).size} guests, pagers ${listing(pagers)}.`;
$('made').textContent = `Made by mmuscope ${data.version}. Everything on this page is inside it; nothing was fetched.`;
writeVerdict();
$('workload').replaceChildren(...[...new Set(experiments.map(r => r.guestLabel))].map(option));
$('pagers').append(...pagers.map(p => element('label', {}, element('input', {type: 'checkbox', value: p, checked: '', onchange: e => {
  if (e.target.checked) hidden.delete(p); else hidden.add(p);
  drawComparison();
  drawTable();
}}), p)));
$('columns').replaceChildren(option('main'), ...[...groups.keys()].map(option));
fillSettings();
$('workload').onchange = () => { fillSettings(); drawComparison(); drawTable(); };
$('setting').onchange = drawComparison;
$('columns').onchange = $('rows').onchange = drawTable;
$('table-csv').onclick = () => download('results.csv', csvText(tableData()));
for (const form of document.forms) form.addEventListener('submit', e => e.preventDefault());
drawComparison();
drawTable();
startWalks();
startLife();
startPublished();
document.body.dataset.ready = 'yes';
})();
