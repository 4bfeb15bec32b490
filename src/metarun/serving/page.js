"use strict";
const $ = (id) => document.getElementById(id);
const pictures = new Map(); // name → address of its picture
const classes = []; // { name: input, files: [] }
let about = {};

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(name) {
  const image = element("img");
  image.src = pictures.get(name) || "";
  image.alt = name;
  image.title = name;
  return image;
}

function remember(files) {
  for (const file of files) pictures.set(file.name, URL.createObjectURL(file));
}

function droppable(zone, use) {
  const input = zone.querySelector("input[type=file]");
  input.addEventListener("change", () => use([...input.files]));
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
  const each = { name, files: [] };
  droppable(zone, (files) => {
    remember(files);
    each.files.push(...files);
    shown.append(...files.map((file) => picture(file.name)));
  });
  box.append(name, zone, shown);
  classes.push(each);
  $("classes").append(box);
}

async function predict(files) {
  $("error").textContent = "";
  remember(files);
  const body = new FormData();
  for (const each of classes)
    for (const file of each.files) body.append(`support:${each.name.value}`, file, file.name);
  for (const file of files) body.append("query", file, file.name);
  let found;
  try {
    const response = await fetch("predict", { method: "POST", body });
    found = await response.json();
  } catch (error) {
    found = { error: "the server does not answer: is metarun serve still running?" };
  }
  if (found.error) {
    $("error").textContent = found.error;
    return;
  }
  const left = Object.entries(found.leftOut).map(([name, why]) => `${name} is ${why}`);
  $("error").textContent = left.length ? `left out: ${left.join("; ")}` : "";
  $("answers").replaceChildren(...found.answers.map(answer));
}

function answer(each) {
  const row = element("div", "answer");
  const text = element("div");
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  text.append(element("div", "label", `${each.class} ${percent(each.probability)}`));
  text.append(element("div", "rest", `else ${each.runnerUp}, ${percent(each.probability - each.margin)}`));
  text.append(element("div", "rest", each.name));
  const near = element("div", "near", "nearest labelled");
  const row2 = element("div", "pictures");
  row2.append(
    ...each.neighbours.map((name) => (pictures.has(name) ? picture(name) : element("span", "", name)))
  );
  near.append(row2);
  row.append(picture(each.name), text, near);
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
