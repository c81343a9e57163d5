"""Style sheet and script of the report's page."""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root { --bg:#f6f7f9; --card:#ffffff; --ink:#14181f; --soft:#5b6472; --line:#e4e7ec; --accent:#2f62f0; --mark:#eef3ff; }
@media (prefers-color-scheme: dark) {
  :root { --bg:#0e1116; --card:#161a21; --ink:#e8ebf0; --soft:#98a2b3; --line:#272d38; --accent:#7ea2ff; --mark:#1b2540; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin:0; background:var(--bg); color:var(--ink); line-height:1.5;
  font:15px/1.5 Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width:1120px; margin:0 auto; padding:40px 24px 80px; display:grid; gap:20px; grid-template-columns:minmax(0,1fr); }
header { margin-bottom:8px; }
h1 { margin:0 0 10px; font-size:clamp(24px,4vw,34px); line-height:1.15; letter-spacing:-.022em; font-weight:680; }
h2 { margin:0; font-size:17px; letter-spacing:-.01em; font-weight:640; }
h3 { margin:0; font-size:12.5px; color:var(--soft); font-weight:520; }
.facts { list-style:none; display:flex; flex-wrap:wrap; gap:4px 18px; margin:0; padding:0; color:var(--soft); font-size:14px; }
section { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:20px 22px; min-width:0; }
section > .chart, section > .scroll, section > details { margin-top:12px; }
.note { margin:3px 0 0; color:var(--soft); font-size:13.5px; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(215px,1fr)); gap:1px; padding:0; overflow:hidden;
  background:var(--line); }
.tile { background:var(--card); padding:16px 20px; }
.tile p { margin:0; color:var(--soft); font-size:12.5px; }
.tile .value { color:var(--ink); font-size:25px; font-weight:640; letter-spacing:-.02em; margin:2px 0;
  font-variant-numeric:tabular-nums; white-space:nowrap; }
.tile small { font-size:12px; font-weight:450; letter-spacing:0; color:var(--soft); }
.pair { display:grid; grid-template-columns:repeat(2,minmax(0,1fr)); gap:20px; }
.scroll { overflow-x:auto; margin-inline:-22px; padding-inline:22px; }
table { border-collapse:collapse; width:100%; font-size:13.5px; font-variant-numeric:tabular-nums; }
th, td { padding:8px 12px; text-align:right; white-space:nowrap; border-bottom:1px solid var(--line); }
th { color:var(--soft); font-weight:520; font-size:12.5px; }
th:first-child, td:first-child { text-align:left; padding-left:4px; }
td:first-child { font-weight:520; }
tbody tr:last-child td { border-bottom:0; }
tr.first td { background:var(--mark); font-weight:620; }
.wrap th, .wrap td { white-space:normal; text-align:left; }
pre { overflow-x:auto; font:12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin:12px 0 0; }
summary { cursor:pointer; color:var(--accent); }
@media (max-width:760px) {
  main { padding:24px 12px 48px; gap:12px; }
  section { padding:16px; border-radius:12px; }
  .tiles { padding:0; grid-template-columns:repeat(2,minmax(0,1fr)); }
  .tile { padding:13px 14px; }
  .tile .value { font-size:21px; }
  .tile small { display:block; }
  .pair { grid-template-columns:minmax(0,1fr); gap:12px; }
  .scroll { margin-inline:-16px; padding-inline:16px; }
}
@media print { body { background:#fff; } section { break-inside:avoid; } }
"""

SCRIPT = """
const charts = [...document.querySelectorAll('.chart')].map(box => {
  const figure = JSON.parse(box.querySelector('script').textContent);
  box.textContent = '';
  return { box, figure };
});
function axis(own, line, soft) {
  return { gridcolor: line, linecolor: line, zerolinecolor: line, tickfont: { color: soft },
    automargin: true, fixedrange: true, ...own, title: { font: { size: 12, color: soft }, standoff: 10, ...(own || {}).title } };
}
function draw() {
  const css = getComputedStyle(document.documentElement);
  const [ink, soft, line, card] = ['--ink', '--soft', '--line', '--card'].map(name => css.getPropertyValue(name).trim());
  const narrow = window.innerWidth < 760;
  for (const { box, figure } of charts) {
    const layout = { ...figure.layout, autosize: true, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: ink },
      margin: { l: narrow ? 44 : 60, r: 12, t: 10, b: 44 },
      hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink } },
      legend: { orientation: 'h', y: -0.16, yanchor: 'top', x: 0, font: { color: soft } },
      xaxis: axis(figure.layout.xaxis, line, soft), yaxis: axis(figure.layout.yaxis, line, soft) };
    Plotly.react(box, figure.data, layout, { displayModeBar: false, responsive: true });
  }
}
draw();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
"""
