"use strict";
const $ = (id) => document.getElementById(id);
const classes = []; // { name: input, images: [{ file, address }] }
let about = {};
let asked = 0; // only the latest answer is shown

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(image) {
  const made = element("img");
  made.src = image.address;
  made.alt = image.file.name;
  made.title = image.file.name;
  return made;
}

function withAddress(file) {
  return { file, address: URL.createObjectURL(file) };
}

function droppable(zone, use) {
  const input = zone.querySelector("input[type=file]");
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that the same files can be chosen again
    use(files);
  });
  for (const name of ["dragover", "dragleave", "drop"])
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragover");
      if (name === "drop") use([...event.dataTransfer.files]);
    });
}

function addClass() {
  const box = element("div", "class");
  const name = element("input");
  name.type = "text";
  name.value = `class ${classes.length + 1}`;
  name.setAttribute("aria-label", "name of the class");
  const zone = element("label", "drop", "Drop images, or click");
  const input = element("input");
  Object.assign(input, { type: "file", multiple: true, accept: "image/*" });
  zone.append(input);
  const shown = element("div", "pictures");
  const each = { name, images: [] };
  droppable(zone, (files) => {
    const images = files.map(withAddress);
    each.images.push(...images);
    shown.append(...images.map(picture));
  });
  box.append(name, zone, shown);
  classes.push(each);
  $("classes").append(box);
}

async function predict(files) {
  const number = ++asked;
  $("error").textContent = "";
  const queries = files.map(withAddress);
  const supports = [];
  const body = new FormData();
  for (const each of classes)
    for (const image of each.images) {
      supports.push(image);
      body.append(`support:${each.name.value}`, image.file, image.file.name);
    }
  for (const image of queries) body.append("query", image.file, image.file.name);
  let found;
  try {
    const response = await fetch("predict", { method: "POST", body });
    found = await response.json();
  } catch (error) {
    found = { error: "the server does not answer: is metarun serve still running?" };
  }
  if (number !== asked) return;
  if (found.error) {
    $("error").textContent = found.error;
    return;
  }
  const left = found.leftOut.map((each) => `${each.name} is ${each.why}`);
  $("error").textContent = left.length ? `left out: ${left.join("; ")}` : "";
  $("answers").replaceChildren(...found.answers.map((each) => answer(each, queries, supports)));
}

function answer(each, queries, supports) {
  const row = element("div", "answer");
  const text = element("div");
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  text.append(element("div", "label", `${each.class} ${percent(each.probability)}`));
  text.append(element("div", "rest", `else ${each.runnerUp}, ${percent(each.probability - each.margin)}`));
  text.append(element("div", "rest", queries[each.place].file.name));
  const near = element("div", "near", "nearest labelled");
  const shown = element("div", "pictures");
  shown.append(
    ...each.neighbours.map((place, i) =>
      place === null ? element("span", "", each.neighbourNames[i]) : picture(supports[place])
    )
  );
  near.append(shown);
  row.append(picture(queries[each.place]), text, near);
  return row;
}

async function start() {
  about = await (await fetch("about")).json();
  $("lead").textContent = about.hasSeen
    ? `A learner that tells ${about.classes.join(", ")} apart.`
    : "Drop a few images of each class, then others to be labelled.";
  $("learning").hidden = about.hasSeen;
  for (let i = 0; i < 2 && !about.hasSeen; i++) addClass();
  $("add").addEventListener("click", addClass);
  droppable($("query"), predict);
  document.body.dataset.ready = "yes";
}

start();
