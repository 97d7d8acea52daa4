'use strict';
// Sorting: a click on a head sorts by data-v (a number) or by text; a second click turns it round.
// No <button>: browsers leave those out where print repeats the head of a table.
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = table.tHead.rows[0].cells;
  for (let c = 0; c < heads.length; ++c) {
    if (!heads[c].textContent) continue;
    const button = document.createElement('span');
    button.setAttribute('role', 'button');
    button.tabIndex = 0;
    button.append(...heads[c].childNodes);
    heads[c].append(button);
    button.addEventListener('keydown', event => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      button.click();
    });
    button.addEventListener('click', () => {
      const down = heads[c].getAttribute('aria-sort') === 'ascending';
      for (const head of heads) head.removeAttribute('aria-sort');
      heads[c].setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const body = table.tBodies[0];
      for (const open of body.querySelectorAll('tr.detail')) close(open.previousElementSibling);
      const key = row => {
        const cell = row.cells[c], value = cell.dataset.v;
        return value === undefined ? cell.textContent : Number(value);
      };
      const rows = Array.from(body.rows, row => [key(row), row]);
      rows.sort(([a], [b]) => {
        const numbers = typeof a === 'number' && typeof b === 'number';
        if (typeof a !== typeof b) return typeof a === 'number' ? -1 : 1;  // figures before "-"
        const order = numbers ? a - b : a.localeCompare(b, undefined, { numeric: true });
        return down ? -order : order;
      });
      for (const [, row] of rows) body.append(row);
    });
  }
}
// Filtering: every word must appear in the row.
for (const input of document.querySelectorAll('input[data-filter]')) {
  const table = document.getElementById(input.dataset.filter);
  const count = document.getElementById(input.dataset.filter + '-count');
  input.addEventListener('input', () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      if (row.classList.contains('detail')) { row.hidden = row.previousElementSibling.hidden; continue; }
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    if (count) count.textContent = shown + ' of ' + table.tBodies[0].querySelectorAll('tr:not(.detail)').length;
  });
}
// Another row to compare with: its texts are in the page, only how they are shown is here.
for (const select of document.querySelectorAll('select[data-table]')) {
  const id = select.dataset.table, table = document.getElementById(id);
  const tables = JSON.parse(select.dataset.against);
  select.closest('.choice').hidden = false;
  select.addEventListener('change', () => {
    const name = select.options[select.selectedIndex].text;
    const rows = tables[select.selectedIndex], body = table.tBodies[0];
    const same = rows.length === body.rows.length &&
        Array.from(body.rows).every(row => row.dataset.row && rows[Number(row.dataset.row)][0] === row.cells[0].textContent);
    if (!same) body.replaceChildren(...rows.map(made));
    for (const row of body.rows) {
      const texts = rows[Number(row.dataset.row)];
      row.classList.toggle('reference', texts[0] === name);
      for (let c = 1; c < texts.length; ++c) show(row.cells[c], texts[c]);
    }
  });
}
function made(texts, number) {
  const row = document.createElement('tr');
  row.dataset.row = number;
  for (const text of texts) {
    const cell = row.insertCell();
    if (row.cells.length === 1) { cell.textContent = text; cell.className = 'left'; }
  }
  return row;
}
function show(cell, text) {
  const [first, ...rest] = text.split('\n');
  cell.textContent = first;
  if (rest.length === 0) return;
  const small = document.createElement('small');
  small.textContent = rest.join(' ');
  cell.append(document.createElement('br'), small);
}
// What a link leads to, and in print everything, is unfolded.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target && target.closest('details');
  if (fold) { fold.open = true; target.scrollIntoView(); }
}
addEventListener('hashchange', unfold);
unfold();
let folded = [];
addEventListener('beforeprint', () => {
  folded = Array.from(document.querySelectorAll('details:not([open])'));
  for (const fold of folded) fold.open = true;
});
addEventListener('afterprint', () => { for (const fold of folded) fold.open = false; });
// Details of a cell, made when they are asked for.
let cells = null;
const element = (name, text) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  return node;
};
function rowsOf(object, prefix, table) {
  for (const [key, value] of Object.entries(object)) {
    if (value !== null && typeof value === 'object' && !Array.isArray(value)) { rowsOf(value, prefix + key + '.', table); continue; }
    const row = table.insertRow();
    row.append(element('td', prefix + key), element('td', typeof value === 'object' ? JSON.stringify(value) : String(value)));
  }
}
function close(row) {
  if (row.nextElementSibling && row.nextElementSibling.classList.contains('detail')) row.nextElementSibling.remove();
  row.querySelector('.more').setAttribute('aria-expanded', 'false');
}
function open(row, index) {
  cells = cells || JSON.parse(document.getElementById('cells').textContent);
  const cell = cells[index], detail = element('tr'), place = element('td'), inside = element('div');
  detail.className = 'detail';
  place.colSpan = row.cells.length;
  inside.className = 'inside';
  for (const [title, content] of Object.entries(cell)) {
    const part = element('div');
    part.append(element('h3', title));
    if (typeof content === 'string') part.append(element('pre', content));
    else if (Array.isArray(content)) { const list = element('ul'); list.className = 'lines'; for (const text of content) list.append(element('li', text)); part.append(list); }
    else { const table = element('table'); rowsOf(content, '', table.createTBody()); part.append(table); }
    inside.append(part);
  }
  place.append(inside);
  detail.append(place);
  row.after(detail);
  row.querySelector('.more').setAttribute('aria-expanded', 'true');
}
document.addEventListener('click', event => {
  const button = event.target.closest('.more');
  if (!button) return;
  const row = button.closest('tr');
  if (button.getAttribute('aria-expanded') === 'true') close(row); else open(row, Number(button.dataset.cell));
});
