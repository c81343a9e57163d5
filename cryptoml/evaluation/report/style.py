"""Style sheet and script of the report's page."""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root { --bg:#f4f6f9; --card:#ffffff; --ink:#131820; --soft:#5a6474; --line:#e3e7ed; --accent:#2f5fe0; --mark:#eef3ff;
  --good:#0b7a4b; --bad:#c0362c; --shade:0 1px 2px rgba(18,28,45,.04), 0 6px 24px rgba(18,28,45,.045); }
@media (prefers-color-scheme: dark) {
  :root { --bg:#0d1015; --card:#151a21; --ink:#e7ebf1; --soft:#97a2b4; --line:#262d38; --accent:#86a8ff; --mark:#1a2442;
    --good:#4fce97; --bad:#ff8a7d; --shade:none; }
}
* { box-sizing:border-box; }
html { -webkit-text-size-adjust:100%; scroll-behavior:smooth; scroll-padding-top:64px; }
body { margin:0; background:var(--bg); color:var(--ink);
  font:15px/1.5 Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main, nav > div { max-width:1180px; margin:0 auto; padding-inline:24px; }
header { padding-block:44px 18px; }
h1 { margin:0 0 12px; font-size:clamp(25px,4vw,36px); line-height:1.14; letter-spacing:-.024em; font-weight:680;
  text-wrap:balance; }
h2 { margin:0; font-size:17px; letter-spacing:-.01em; font-weight:640; }
h3 { margin:0; font-size:12.5px; color:var(--soft); font-weight:520; }
.facts { list-style:none; display:flex; flex-wrap:wrap; gap:6px; margin:0; padding:0; color:var(--soft); font-size:13px; }
.facts li { border:1px solid var(--line); border-radius:99px; padding:2px 11px; background:var(--card); }
nav { position:sticky; top:0; z-index:5; background:color-mix(in srgb, var(--bg) 86%, transparent); backdrop-filter:blur(10px);
  border-bottom:1px solid var(--line); }
nav > div { display:flex; gap:4px; overflow-x:auto; scrollbar-width:none; padding-block:7px; }
nav a { color:var(--soft); text-decoration:none; font-size:13.5px; font-weight:540; padding:5px 11px; border-radius:8px;
  white-space:nowrap; }
nav a:first-child { margin-left:-11px; }
nav a:hover { color:var(--ink); background:var(--card); }
nav a.here { color:var(--accent); background:var(--mark); }
main { padding-block:20px 80px; display:grid; gap:20px; grid-template-columns:minmax(0,1fr); }
.chapter { display:grid; gap:20px; grid-template-columns:minmax(0,1fr); }
section { background:var(--card); border:1px solid var(--line); border-radius:16px; padding:20px 22px; min-width:0;
  box-shadow:var(--shade); }
section > .chart, section > .scroll, section > details, section > .three, section > .views { margin-top:14px; }
.note { margin:3px 0 0; color:var(--soft); font-size:13.5px; max-width:104ch; }
.tiles { display:grid; grid-template-columns:repeat(4,minmax(0,1fr)); gap:1px; padding:0; overflow:hidden;
  background:var(--line); }
.tile { background:var(--card); padding:17px 20px; }
.tile p { margin:0; color:var(--soft); font-size:12.5px; }
.tile .value { color:var(--ink); font-size:26px; font-weight:650; letter-spacing:-.022em; margin:2px 0; line-height:1.25;
  font-variant-numeric:tabular-nums; white-space:nowrap; }
.tile small { font-size:12px; font-weight:450; letter-spacing:0; color:var(--soft); margin-left:3px; }
.brief dl { display:grid; grid-template-columns:max-content minmax(0,1fr); gap:8px 20px; margin:12px 0 0; font-size:14.5px; }
.brief dt { color:var(--soft); }
.brief dd { margin:0; max-width:88ch; }
.pair { display:grid; grid-template-columns:repeat(2,minmax(0,1fr)); gap:20px; align-items:stretch; }
.pair > :last-child:nth-child(odd) { grid-column:1 / -1; }
.stack { display:flex; flex-direction:column; gap:20px; min-width:0; }
.stack > :last-child { flex:1; }
.three { display:grid; grid-template-columns:repeat(3,minmax(0,1fr)); gap:8px; }
.scroll { overflow-x:auto; margin-inline:-22px; padding-inline:22px; background:
  linear-gradient(to left, var(--card) 40%, transparent) right / 60px 100% no-repeat local,
  linear-gradient(to left, color-mix(in srgb, var(--ink) 16%, transparent), transparent) right / 18px 100% no-repeat scroll; }
table { border-collapse:separate; border-spacing:0; width:calc(100% + 20px); margin-inline:-10px; font-size:13.5px;
  font-variant-numeric:tabular-nums; }
th, td { padding:7px 12px; text-align:right; white-space:nowrap; border-bottom:1px solid var(--line); }
th { color:var(--soft); font-weight:520; font-size:12.5px; }
th:first-child, td:first-child { text-align:left; padding-left:10px; position:sticky; left:-22px; background:var(--card); }
th:last-child, td:last-child { padding-right:10px; }
td:first-child { font-weight:520; }
td small { display:block; color:var(--soft); font-size:11px; }
td.good { color:var(--good); } td.bad { color:var(--bad); } td.good, td.bad { font-weight:600; }
td.good small, td.bad small { font-weight:400; }
tbody tr:last-child td { border-bottom:0; }
tbody tr:hover td { background:color-mix(in srgb, var(--mark) 55%, var(--card)); }
tr.first td, tr.first td:first-child { background:var(--mark); font-weight:620; }
tr.first td { border-bottom-color:transparent; }
tr.first td:first-child { border-radius:8px 0 0 8px; }
tr.first td:last-child { border-radius:0 8px 8px 0; }
.pairs { margin-top:10px; }
.pairs td:first-child { position:static; font-weight:400; white-space:normal; color:var(--soft); }
.pairs.words td { white-space:normal; text-align:left; vertical-align:top; }
.pairs.words td:first-child { min-width:130px; }
.views { display:flex; flex-wrap:wrap; gap:4px; }
.views button { font:inherit; font-size:12.5px; color:var(--soft); background:none; border:1px solid var(--line);
  border-radius:99px; padding:3px 12px; cursor:pointer; }
.views button[aria-pressed=true] { color:var(--accent); background:var(--mark); border-color:transparent; font-weight:560; }
.views button:focus-visible, nav a:focus-visible, summary:focus-visible { outline:2px solid var(--accent); outline-offset:2px; }
pre { overflow-x:auto; font:12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin:12px 0 0; }
summary { cursor:pointer; color:var(--accent); font-size:13.5px; }
details[open] > summary { margin-bottom:8px; }
@media (max-width:900px) {
  .tiles { grid-template-columns:repeat(2,minmax(0,1fr)); }
  .pair, .three { grid-template-columns:minmax(0,1fr); gap:14px; }
}
@media (max-width:620px) {
  header, main, nav > div { padding-inline:12px; }
  header { padding-block:26px 14px; }
  main, .chapter, .pair, .stack { gap:12px; }
  main { padding-block:12px 48px; }
  section { padding:16px; border-radius:14px; }
  .tiles { padding:0; }
  .tile { padding:13px 14px; }
  .tile .value { font-size:21px; }
  .tile small { display:block; margin:0; }
  .brief dl { grid-template-columns:minmax(0,1fr); gap:1px; }
  .brief dd { margin-bottom:10px; }
  .scroll { margin-inline:-16px; padding-inline:16px; }
  th, td { padding:7px 9px; }
  th:first-child, td:first-child { left:-16px; }
}
@media print {
  body { background:#fff; } nav { display:none; } section { break-inside:avoid; box-shadow:none; }
}
"""

SCRIPT = """
const charts = [...document.querySelectorAll('.chart')].map(box => {
  const content = JSON.parse(box.querySelector('script').textContent);
  box.textContent = '';
  const chart = { box, views: content.views || [content], shown: 0, drawn: false };
  if (chart.views.length > 1) chooser(chart);
  return chart;
});
function chooser(chart) {
  const bar = document.createElement('div');
  bar.className = 'views';
  chart.views.forEach((view, index) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = view.label;
    button.setAttribute('aria-pressed', index === 0);
    button.onclick = () => {
      chart.shown = index;
      [...bar.children].forEach((other, at) => other.setAttribute('aria-pressed', at === index));
      draw(chart);
    };
    bar.append(button);
  });
  chart.box.before(bar);
}
function axis(own, look) {
  return { gridcolor: look.line, linecolor: look.line, zerolinecolor: look.line, tickfont: { color: look.soft }, automargin: true,
    fixedrange: true, ...own, tickfont: { color: look.soft, ...(own || {}).tickfont },
    title: { font: { size: 12, color: look.soft }, standoff: 10, ...(own || {}).title } };
}
function look() {
  const css = getComputedStyle(document.documentElement);
  const names = ['ink', 'soft', 'line', 'card'];
  return Object.fromEntries(names.map(name => [name, css.getPropertyValue('--' + name).trim()]));
}
function draw(chart) {
  const colours = look(), figure = chart.views[chart.shown], narrow = window.innerWidth < 620;
  const clear = 'rgba(0,0,0,0)', small = { color: colours.soft, size: narrow ? 11 : 12 };
  const layout = { ...figure.layout, autosize: true, height: undefined, paper_bgcolor: clear, plot_bgcolor: clear,
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: colours.ink },
    margin: { l: narrow ? 40 : 56, r: 8, t: 8, b: 40, ...figure.layout.margin }, hovermode: 'closest', bargap: .28,
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, font: { color: colours.ink } },
    legend: { orientation: 'h', yref: 'container', y: 0, yanchor: 'bottom', x: 0, font: small, itemwidth: 30 },
    xaxis: axis(figure.layout.xaxis, colours), yaxis: axis(figure.layout.yaxis, colours) };
  if (figure.layout.showlegend) layout.margin.b = narrow ? 104 : 84;
  Plotly.react(chart.box, figure.data, layout, { displayModeBar: false });
  chart.drawn = true;
  chart.width = chart.box.clientWidth;
}
const later = window.requestIdleCallback ? task => requestIdleCallback(task, { timeout: 200 }) : task => setTimeout(task, 16);
function drawRest() {
  const next = charts.find(chart => !chart.drawn);
  if (next) { draw(next); later(drawRest); }
}
charts.filter(chart => chart.box.getBoundingClientRect().top < window.innerHeight).forEach(draw);
drawRest();
const redraw = () => charts.filter(chart => chart.drawn).forEach(draw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
new ResizeObserver(() => charts.filter(chart => chart.drawn && chart.width !== chart.box.clientWidth).forEach(draw))
  .observe(document.querySelector('main'));
window.addEventListener('beforeprint', () => charts.forEach(draw));
const links = new Map([...document.querySelectorAll('nav a')].map(link => [link.hash.slice(1), link]));
const spy = new IntersectionObserver(entries => entries.forEach(entry => {
  if (!entry.isIntersecting) return;
  links.forEach(link => link.classList.remove('here'));
  links.get(entry.target.id).classList.add('here');
}), { rootMargin: '-20% 0px -70% 0px' });
document.querySelectorAll('.chapter').forEach(chapter => spy.observe(chapter));
"""
