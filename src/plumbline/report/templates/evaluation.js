"use strict";
// Filters and keys of the gallery. Without it all pictures are shown.
const cards = [...document.querySelectorAll("figure.picture")];
const filters = [...document.querySelectorAll("select[data-filter]")];
const count = document.getElementById("count");

function apply() {
  let seen = 0;
  for (const card of cards) {
    const fits = filters.every((one) => !one.value || card.dataset[one.dataset.filter].split("\t").includes(one.value));
    card.hidden = !fits;
    seen += fits;
  }
  count.textContent = `${seen} of ${cards.length} pictures`;
}

function step(by) {
  const open = cards.filter((card) => !card.hidden);
  if (!open.length) return;
  const at = open.findIndex((card) => "#" + card.id === location.hash);
  const next = open[Math.min(Math.max(at + by, 0), open.length - 1)];
  history.replaceState(null, "", "#" + next.id);
  next.scrollIntoView({ block: "start" });
  next.querySelector("a").focus({ preventScroll: true });
}

filters.forEach((one) => one.addEventListener("change", apply));
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else return;
  event.preventDefault();
});
document.getElementById("filters").hidden = false;
apply();
