"""Style sheet and script of the report page."""

CSS = """
:root{--bg:#fff;--fg:#1d2430;--soft:#5b6675;--rule:#e3e7ec;--blue:#2f6fb3;--orange:#d9690f;--grey:#9aa3ad;--band:#2f6fb31c}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e3e8ee;--soft:#9aa6b4;--rule:#2b323b;--blue:#6fb0f0;--orange:#f2994a;
--grey:#667382;--band:#6fb0f022}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:26px;margin:8px 0 4px}
h2{font-size:18px;margin:36px 0 8px;border-top:1px solid var(--rule);padding-top:18px}
p{margin:6px 0;max-width:80ch}
.note,.missing{color:var(--soft);font-size:13.5px}
figure{margin:8px 0;min-width:0}
svg{display:block;width:100%;height:auto}
svg text{font:11.5px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke-width:1.8}
circle.evaluated,path.evaluated{fill:var(--grey);fill-opacity:.55}
circle.front,path.front{fill:var(--blue)} .line.front{fill:none;stroke:var(--blue)}
circle.deployed,path.deployed{fill:var(--orange)} .line.deployed{fill:none;stroke:var(--orange)}
:root{--s0:#2f6fb3;--s1:#d9690f;--s2:#2b8a57;--s3:#9b4fb0;--s4:#b8860b;--s5:#c23a54;--s6:#4b6b75;--s7:#7a5c3e;}
@media (prefers-color-scheme:dark){:root{--s0:#6fb0f0;--s1:#f2994a;--s2:#5cc98f;--s3:#cf8fe0;--s4:#e0b64a;--s5:#f07f95;--s6:#9bb6bf;--s7:#c9a98a;}}
circle.s0,path.s0{fill:var(--s0)} .line.s0{fill:none;stroke:var(--s0)} .spread.s0{fill:var(--s0);fill-opacity:.13}
circle.s1,path.s1{fill:var(--s1)} .line.s1{fill:none;stroke:var(--s1)} .spread.s1{fill:var(--s1);fill-opacity:.13}
circle.s2,path.s2{fill:var(--s2)} .line.s2{fill:none;stroke:var(--s2)} .spread.s2{fill:var(--s2);fill-opacity:.13}
circle.s3,path.s3{fill:var(--s3)} .line.s3{fill:none;stroke:var(--s3)} .spread.s3{fill:var(--s3);fill-opacity:.13}
circle.s4,path.s4{fill:var(--s4)} .line.s4{fill:none;stroke:var(--s4)} .spread.s4{fill:var(--s4);fill-opacity:.13}
circle.s5,path.s5{fill:var(--s5)} .line.s5{fill:none;stroke:var(--s5)} .spread.s5{fill:var(--s5);fill-opacity:.13}
circle.s6,path.s6{fill:var(--s6)} .line.s6{fill:none;stroke:var(--s6)} .spread.s6{fill:var(--s6);fill-opacity:.13}
circle.s7,path.s7{fill:var(--s7)} .line.s7{fill:none;stroke:var(--s7)} .spread.s7{fill:var(--s7);fill-opacity:.13}
rect.bar{fill:var(--blue)}
.line.diagonal{stroke:var(--grey);stroke-dasharray:4 4}
.band{fill:var(--band)}
[data-tip]{cursor:pointer;outline:none}
[data-tip]:hover,[data-tip]:focus{stroke:var(--fg);stroke-width:2}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--soft);margin:2px 0 2px 62px}
.legend span{display:inline-flex;align-items:center;gap:6px}
.legend svg{width:18px;height:12px;flex:none}
.name{font-size:14px;font-weight:600;margin-left:62px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:12px 24px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 7px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{cursor:pointer;color:var(--soft);font-weight:600;position:sticky;top:0;background:var(--bg)}
td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}
summary{cursor:pointer;color:var(--blue)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;font-size:13.5px;margin:0}
dt{color:var(--soft)} dd{margin:0;overflow-wrap:anywhere}
#tip{position:fixed;display:none;pointer-events:none;background:var(--fg);color:var(--bg);padding:7px 10px;border-radius:5px;
font-size:12.5px;white-space:pre-line;max-width:460px;z-index:9}
"""

SCRIPT = """
const tip = document.getElementById('tip');
function show(mark) {
  tip.textContent = mark.dataset.tip;
  tip.style.display = 'block';
  const at = mark.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const left = at.right + 10 + box.width > innerWidth ? at.left - box.width - 10 : at.right + 10;
  const top = Math.min(Math.max(6, at.top - box.height / 2), innerHeight - box.height - 6);
  tip.style.left = Math.max(6, left) + 'px';
  tip.style.top = top + 'px';
}
for (const mark of document.querySelectorAll('[data-tip]')) {
  const title = mark.querySelector('title');
  if (title) title.remove();  // the page's own hint replaces the browser's
  mark.setAttribute('aria-label', mark.dataset.tip);
  for (const event of ['mouseenter', 'focus']) mark.addEventListener(event, () => show(mark));
  for (const event of ['mouseleave', 'blur']) mark.addEventListener(event, () => { tip.style.display = 'none'; });
}
function sort(heading) {
  const column = heading.cellIndex, body = heading.closest('table').tBodies[0];
  const up = heading.dataset.up !== 'yes';
  heading.dataset.up = up ? 'yes' : 'no';
  const key = row => { const v = row.cells[column].dataset.v, n = Number(v); return v !== '' && !isNaN(n) ? n : v; };
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === 'number' ? -1 : 1;
  [...body.rows].sort((a, b) => (up ? 1 : -1) * compare(key(a), key(b))).forEach(row => body.append(row));
}
for (const heading of document.querySelectorAll('th')) {
  heading.addEventListener('click', () => sort(heading));
  heading.addEventListener('keydown', event => { if (event.key === 'Enter') sort(heading); });
}
"""
