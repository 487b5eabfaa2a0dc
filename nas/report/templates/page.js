const tip = document.getElementById('tip');
function show(mark, text) {
  tip.textContent = text;
  tip.style.display = 'block';
  const at = mark.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const left = at.right + 10 + box.width > innerWidth ? at.left - box.width - 10 : at.right + 10;
  const top = Math.min(Math.max(6, at.top - box.height / 2), innerHeight - box.height - 6);
  tip.style.left = Math.max(6, left) + 'px';
  tip.style.top = top + 'px';
}
for (const title of document.querySelectorAll('.dot > title')) {
  const mark = title.parentNode, text = title.textContent;
  title.remove();  // the page's own hint replaces the browser's
  mark.setAttribute('aria-label', text);
  for (const event of ['mouseenter', 'focus']) mark.addEventListener(event, () => show(mark, text));
  for (const event of ['mouseleave', 'blur']) mark.addEventListener(event, () => { tip.style.display = 'none'; });
}
function key(row, column) {
  const text = row.cells[column].dataset.v ?? row.cells[column].textContent, number = Number(text);
  return text.trim() === '' || isNaN(number) ? text : number;
}
function compare(a, b) {  // numbers before texts
  return typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === 'number' ? -1 : 1;
}
function sort(heading) {
  const column = heading.cellIndex, table = heading.closest('table'), body = table.tBodies[0];
  const sign = heading.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending');
  [...body.rows].sort((a, b) => sign * compare(key(a, column), key(b, column))).forEach(row => body.append(row));
}
for (const heading of document.querySelectorAll('th')) {
  heading.addEventListener('click', () => sort(heading));
  heading.addEventListener('keydown', event => { if (event.key === 'Enter') sort(heading); });
}
