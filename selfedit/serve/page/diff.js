/** Differences between two texts by the longest common subsequence, first of lines, then of words. */

const CELLS = 4e6; // of the table; beyond it everything between the common start and end counts as changed

/** Pairs [a, b] of two lists in order; one of them is null where an item is only in the other. */
export function align(a, b) {
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const [x, y] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  const pairs = a.slice(0, start).map((item) => [item, item]);
  if ((x.length + 1) * (y.length + 1) > CELLS) {
    pairs.push(...x.map((item) => [item, null]), ...y.map((item) => [null, item]));
  } else {
    const width = y.length + 1;
    const longest = new Uint32Array((x.length + 1) * width); // of the rests from i and j
    for (let i = x.length - 1; i >= 0; i--) {
      for (let j = y.length - 1; j >= 0; j--) {
        longest[i * width + j] = x[i] === y[j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
      }
    }
    for (let i = 0, j = 0; i < x.length || j < y.length;) {
      const skipLeft = j === y.length || (i < x.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1]);
      if (i < x.length && j < y.length && x[i] === y[j]) pairs.push([x[i++], y[j++]]);
      else pairs.push(skipLeft ? [x[i++], null] : [null, y[j++]]);
    }
  }
  return pairs.concat(a.slice(a.length - end).map((item) => [item, item]));
}

/** Rows [left, right] of texts side by side; a side is a list of {text, changed}, empty where it has no line. */
export function sideBySide(before, after) {
  const rows = [];
  const removed = [], added = [];
  const flush = () => {
    while (removed.length || added.length) rows.push(changedLine(removed.shift() ?? "", added.shift() ?? ""));
  };
  for (const [left, right] of align(before.split("\n"), after.split("\n"))) {
    if (left !== null && right !== null) {
      flush();
      rows.push([[{ text: left, changed: false }], [{ text: right, changed: false }]]);
    } else if (left !== null) removed.push(left);
    else added.push(right);
  }
  flush();
  return rows;
}

/** A row of a line that changed, by words and the spaces between them. */
function changedLine(left, right) {
  const pairs = align(left.match(/\s+|\S+/g) ?? [], right.match(/\s+|\S+/g) ?? []);
  return [0, 1].map((side) => {
    const parts = [];
    for (const pair of pairs) {
      if (pair[side] === null) continue;
      const changed = pair[1 - side] === null;
      if (parts.at(-1)?.changed === changed) parts.at(-1).text += pair[side];
      else parts.push({ text: pair[side], changed });
    }
    return parts;
  });
}
