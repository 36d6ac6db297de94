"use strict";
// Keys press what the page already has: every element with data-key, those of an open dialog first.

const opened = () => document.querySelector("dialog[open]");

function press(key) {
  const within = opened() || document;
  const target = [...within.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key);
  if (target) target.click();
  return Boolean(target);
}

function open(name) {
  const dialog = document.getElementById(name);
  if (opened() || !dialog) return;
  dialog.showModal();
  const text = dialog.querySelector("textarea");
  if (text) text.focus();
}

let shown = 0; // number of the photo in the large view, 0 for none

function show(number) {
  const link = document.querySelector(`[data-photo="${number}"]`);
  if (!link) return;
  shown = number;
  const dialog = document.getElementById("photo");
  dialog.querySelector("img").src = drawnOrPlain(link.href, !document.body.classList.contains("plain"));
  if (!dialog.open) dialog.showModal();
}

// Photos with objects have ?drawn=true; without it they are plain.
function drawnOrPlain(address, drawn) {
  return drawn ? address : address.split("?")[0];
}

function toggleObjects() {
  const plain = document.body.classList.toggle("plain");
  for (const image of document.querySelectorAll("img[data-drawn]")) {
    const address = image.getAttribute("src").split("?")[0];
    image.src = plain ? address : `${address}?drawn=true`;
  }
}

function cite(sentence, on) {
  for (const number of sentence.dataset.cites.split(" ")) {
    const figure = document.getElementById(`photo-${number}`);
    if (figure) figure.classList.toggle("cited", on);
  }
}

document.addEventListener("keydown", (event) => {
  const key = event.key;
  if (event.target.matches("textarea, input")) {
    if (key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const arrow = { ArrowRight: 1, ArrowLeft: -1 }[key];
  let done = false;
  if (arrow && document.getElementById("photo")?.open) {
    show(shown + arrow);
    done = true;
  } else if (arrow) {
    done = press(arrow > 0 ? "j" : "k");
  } else if (key === "o" && !opened()) {
    toggleObjects();
    done = true;
  } else {
    done = press(key);
  }
  if (done) event.preventDefault();
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  const photo = event.target.closest("[data-photo]");
  if (opener) open(opener.dataset.open);
  if (photo && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    show(Number(photo.dataset.photo));
  }
  if (event.target instanceof HTMLDialogElement) event.target.close(); // beside its content
});

// A decision is sent once, however often the key is pressed.
document.addEventListener("submit", (event) => {
  if (event.target.method === "dialog") return;
  if (document.body.classList.contains("sent")) event.preventDefault();
  document.body.classList.add("sent");
});
window.addEventListener("pageshow", () => document.body.classList.remove("sent"));

for (const sentence of document.querySelectorAll("[data-cites]")) {
  sentence.addEventListener("mouseenter", () => cite(sentence, true));
  sentence.addEventListener("mouseleave", () => cite(sentence, false));
}
