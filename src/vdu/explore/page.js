// element: the gallery. A click on a pair chooses it; ‹, › and the arrow keys step through the pairs on the page.
const all = () => [...element.querySelectorAll('[data-seed]')];
const shown = () => document.querySelector('[data-shown]')?.dataset.shown;
let wanted = null; // the pair that was clicked, until the page shows it
const current = () => wanted ?? shown();
function step(by) {
  const pairs = all(), next = pairs[pairs.findIndex((pair) => pair.dataset.seed === current()) + by];
  next?.click();
  return next;
}
function mark() {
  if (wanted === shown()) wanted = null;
  const film = document.querySelector('[data-film]');
  film?.parentElement.toggleAttribute('hidden', film.dataset.film !== shown()); // a late frame of the pair before
  for (const pair of all()) pair.toggleAttribute('data-current', pair.dataset.seed === current());
}
element.addEventListener('click', (event) => {
  const pair = event.target.closest('[data-seed]');
  if (!pair) return;
  wanted = pair.dataset.seed;
  mark();
  document.querySelector('#vdu-viewer').scrollIntoView({block: 'nearest'});
  trigger('click', {seed: wanted});
});
document.addEventListener('click', (event) => {
  const button = event.target.closest('[data-step], [data-copy]');
  if (!button) return;
  if (button.dataset.step) step(Number(button.dataset.step));
  else navigator.clipboard?.writeText(button.dataset.copy);
});
document.addEventListener('keydown', (event) => {
  const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (!by || event.target.closest('input, textarea, [role=tab], [role=listbox]') || !element.offsetParent) return;
  event.preventDefault();
  step(by)?.scrollIntoView({block: 'nearest'});
});
new MutationObserver(mark).observe(document.body, {childList: true, subtree: true});
mark();
