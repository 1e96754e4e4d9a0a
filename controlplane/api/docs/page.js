// Shows openapi.json. All texts of the document are set as text, never as HTML.
"use strict";

const main = document.getElementById("main");
const search = document.getElementById("search");
const calls = document.getElementById("calls");
const found = document.getElementById("found");
const menu = document.getElementById("menu");
let api;
let operations = [];
let schemas = [];

// h makes an element: h("p", {class: "x"}, "text", other). Children may be lists; empty ones are left out.
function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== ""));
  return element;
}

// fill replaces what the page is about.
function fill(title, ...children) {
  main.replaceChildren(h("article", {}, children));
  document.title = title ? title + " · CHOM API" : "CHOM API";
}

// prose shows a text of the document: paragraphs, `code`, **bold**, and drawings, which are indented by four spaces.
function prose(text) {
  return (text || "").split(/\n\n+/).filter((part) => part.trim() !== "").map((part) =>
    /^ {4}/m.test(part) ? h("pre", {}, part) : h("p", {}, inline(part)));
}

function inline(text) {
  return text.split(/(`[^`]*`|\*\*[^*]*\*\*)/).map((piece) => {
    if (piece.startsWith("`")) return h("code", {}, piece.slice(1, -1));
    if (piece.startsWith("**")) return h("strong", {}, piece.slice(2, -2));
    return piece;
  });
}

// resolve follows a reference within the document.
function resolve(thing) {
  if (!thing || !thing.$ref) return thing || {};
  return thing.$ref.slice(2).split("/").reduce((at, key) => at[key], api);
}

// unwrap gives the schema that is behind a description of its own.
function unwrap(schema) {
  if (schema && schema.allOf) return unwrap(schema.allOf[0]);
  return schema || {};
}

// kind is a schema in a few words; it ends with the name of one that has a page of its own.
function kind(schema) {
  const s = unwrap(schema);
  if (s.$ref) return s.$ref.split("/").pop();
  if (s.anyOf) return kind(s.anyOf[0]);
  if (s.enum) return "one of";
  if (s.type === "array") return "list of " + kind(s.items);
  if (s.additionalProperties && s.type === "object") return "map of " + kind(s.additionalProperties);
  return [Array.isArray(s.type) ? s.type[1] : s.type, s.format || s.contentEncoding].filter(Boolean).join(", ");
}

// kindLink is the same with a link to that page.
function kindLink(schema) {
  const words = kind(schema);
  const name = words.split(" ").pop();
  if (!api.components.schemas[name]) return words;
  return [words.slice(0, -name.length), h("a", { href: "#" + name }, name)];
}

// rules are the limits of a schema in words.
function rules(schema) {
  const s = resolve(unwrap(schema));
  const of = s.type === "array" ? resolve(s.items) : s;
  const words = [];
  if (of.pattern) words.push(h("span", {}, "matches ", h("code", {}, of.pattern)));
  for (const [key, word] of Object.entries({
    minLength: "at least %s characters", maxLength: "at most %s characters", minimum: "at least %s", maximum: "at most %s",
    exclusiveMinimum: "more than %s", exclusiveMaximum: "less than %s",
  })) {
    if (of[key] !== undefined) words.push((s === of ? "" : "each ") + word.replace("%s", of[key]));
  }
  for (const [key, word] of Object.entries({
    minItems: "at least %s of them", maxItems: "at most %s of them", minProperties: "at least %s of them", maxProperties: "at most %s of them",
  })) {
    if (s[key] !== undefined) words.push(word.replace("%s", s[key]));
  }
  if (of.enum) words.push(h("span", {}, of.enum.flatMap((value, i) => [i ? ", " : "", h("code", {}, String(value))])));
  return words.length ? h("p", { class: "quiet" }, words.flatMap((word, i) => [i ? "; " : "", word])) : undefined;
}

// inner is the object within a schema whose fields are worth showing.
function inner(schema) {
  const s = resolve(unwrap(schema));
  if (s.type === "array") return inner(s.items);
  if (s.type === "object" && s.properties) return s;
  if (s.type === "object" && s.additionalProperties) return inner(s.additionalProperties);
  return undefined;
}

function fieldRow(name, schema, must, description, seen) {
  const object = inner(schema);
  const more = object && !seen.includes(object) ? h("details", {}, h("summary", {}, "Fields")) : undefined;
  if (more) {
    more.addEventListener("toggle", () => {
      if (more.open && more.childElementCount === 1) more.append(fields(object, [...seen, object]));
    });
  }
  return h("tr", {},
    h("td", {}, h("code", {}, name), " ", must ? h("span", { class: "must" }, "required") : "", h("div", { class: "quiet" }, kindLink(schema))),
    h("td", {}, prose(description), rules(schema), more));
}

function fields(object, seen) {
  const required = object.required || [];
  return h("table", { class: "fields" }, h("tbody", {}, Object.entries(object.properties || {}).map(([name, schema]) =>
    fieldRow(name, schema, required.includes(name) && seen.asks, schema.description, Object.assign([...seen], { asks: seen.asks })))));
}

function parameterTable(parameters) {
  return h("table", { class: "fields" }, h("tbody", {}, parameters.map((p) => fieldRow(p.name, p.schema, p.required, p.description, []))));
}

// example is a call as one would type it.
function example(op) {
  const lines = ["curl --request " + op.method + " \"$CHOM_URL" + op.path.replace(/{(\w+)}/g, (_, name) => "$" + name.toUpperCase()) + "\""];
  if (op.security.some((way) => way.token)) lines.push("--header \"Authorization: Bearer $CHOM_TOKEN\"");
  if (op.requestBody) {
    const schema = resolve(op.requestBody.content["application/json"].schema);
    const body = {};
    for (const name of schema.required || []) body[name] = sample(schema.properties[name]);
    lines.push("--header \"Content-Type: application/json\"", "--data '" + JSON.stringify(body) + "'");
  }
  return lines.join(" \\\n  ");
}

function sample(schema) {
  const s = resolve(unwrap(schema));
  if (s.anyOf) return sample(s.anyOf[0]);
  if (s.enum) return s.enum[s.enum.length > 1 ? 1 : 0];
  if (s.type === "array") return [sample(s.items)];
  if (s.type === "object") return {};
  if (s.type === "boolean") return true;
  if (s.type === "integer" || s.type === "number") return s.minimum || 1;
  return { uuid: "00000000-0000-0000-0000-000000000000", email: "you@example.com" }[s.format] || "...";
}

function showCall(op) {
  const groups = { path: [], query: [], header: [] };
  for (const p of op.parameters || []) groups[resolve(p).in].push(resolve(p));
  const [kindOfAnswer, media] = Object.entries(op.responses["200"].content)[0];
  const answer = media.schema && inner(media.schema);
  const body = op.requestBody && resolve(op.requestBody.content["application/json"].schema);
  fill(op.operationId,
    h("h1", {}, op.operationId),
    h("p", { class: "path" }, h("span", { class: "verb " + op.method.toLowerCase() }, op.method), " ", op.path),
    prose(op.description),
    h("p", { class: "quiet" }, "Counts in the class ", h("code", {}, op["x-chom-limit"]), " of limits. By Connect and gRPC: ",
      h("code", {}, op["x-chom-procedure"]), ". ", h("a", { href: "/api/docs/authorization#" + op["x-chom-procedure"].split("/").pop() }, "Its row in the authorization table"), "."),
    h("pre", {}, example(op)),
    groups.path.length ? [h("h2", {}, "In the path"), parameterTable(groups.path)] : "",
    groups.query.length ? [h("h2", {}, "In the query"), parameterTable(groups.query)] : "",
    body && Object.keys(body.properties || {}).length ? [h("h2", {}, "In the body"), fields(body, Object.assign([body], { asks: true }))] : "",
    groups.header.length ? [h("h2", {}, "In headers"), parameterTable(groups.header)] : "",
    h("h2", {}, "Answer"),
    h("p", { class: "quiet" }, h("code", {}, kindOfAnswer), media.schema ? [" ", kindLink(media.schema)] : ""),
    prose(op.responses["200"].description),
    answer ? fields(answer, [answer]) : "",
    h("h2", {}, "Failures"),
    h("p", {}, "Any of ", Object.keys(op.responses).filter((status) => /^[45]/.test(status)).join(", "), " as ", h("a", { href: "#problems" }, "a problem"), "."));
}

function showSchema(name) {
  const schema = api.components.schemas[name];
  const uses = (thing) => JSON.stringify(thing).includes('"#/components/schemas/' + name + '"');
  const users = [
    ...operations.filter(uses).map((op) => h("a", { href: "#" + op.operationId }, op.operationId)),
    ...schemas.filter((other) => uses(api.components.schemas[other])).map((other) => h("a", { href: "#" + other }, other)),
  ];
  fill(name,
    h("h1", {}, name),
    prose(schema.description),
    schema.enum ? h("p", { class: "quiet" }, "One of these texts.") : fields(schema, Object.assign([schema], { asks: schema.additionalProperties === false })),
    users.length ? [h("h2", {}, "Used by"), h("ul", {}, users.map((user) => h("li", {}, user)))] : "");
}

function showHome() {
  const problems = Object.entries(api.components.schemas.Problem["x-chom-kinds"]);
  fill("",
    h("h1", {}, api.info.title + " API ", h("small", { class: "quiet" }, api.info.version)),
    prose(api.info.description),
    h("h2", { id: "problems" }, "Problems"),
    h("p", {}, "A failed call answers with these fields:"),
    fields(api.components.schemas.Problem, []),
    h("p", {}, "Its type is the address of one of these:"),
    problems.map(([name, kind]) => h("section", { class: "problem", id: name },
      h("h3", {}, h("a", { href: "#" + name }, h("code", {}, name)), " ", h("small", { class: "quiet" }, kind.status)), h("p", {}, kind.title + ". " + kind.advice))));
}

// show shows what the address names: a call, a schema, or a place on the first page.
function show() {
  const id = location.hash.slice(1);
  const op = operations.find((candidate) => candidate.operationId === id);
  if (op) showCall(op);
  else if (schemas.includes(id)) showSchema(id);
  else showHome();
  const target = id && document.getElementById(id);
  if (target) {
    target.classList.add("here"); // :target does not see what was made later
    target.scrollIntoView();
  } else {
    scrollTo(0, 0);
  }
  mark();
  openMenu(false);
}

// mark shows in the list where the reader is.
function mark() {
  for (const link of calls.querySelectorAll("a")) {
    if (link.hash !== location.hash) {
      link.removeAttribute("aria-current");
      continue;
    }
    link.setAttribute("aria-current", "page");
    const group = link.closest("details");
    if (group) group.open = true;
    link.scrollIntoView({ block: "nearest" });
  }
}

// openMenu shows or hides the list where it does not fit beside the text.
function openMenu(open) {
  menu.setAttribute("aria-expanded", String(open));
  menu.parentElement.classList.toggle("open", open);
}

// list lists the calls and schemas that have all words of the search.
function list() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (text) => words.every((word) => text.includes(word));
  const someCalls = operations.filter((op) => has(op.haystack));
  const someSchemas = schemas.filter((name) => !name.endsWith("Response") && has(name.toLowerCase())); // those are shown with their calls
  const groups = api.tags.map((tag) => [tag, someCalls.filter((op) => op.tags[0] === tag.name)]).filter(([, ops]) => ops.length);
  calls.replaceChildren(...groups.map(([tag, ops]) => h("section", {}, h("h2", { title: tag.description }, tag.name.replace(/([a-z])([A-Z])/g, "$1 $2")),
    h("ul", {}, ops.map((op) => h("li", {}, h("a", { href: "#" + op.operationId, title: op.method + " " + op.path },
      h("span", { class: "verb " + op.method.toLowerCase() }, op.method), h("span", {}, op.operationId))))))));
  if (someSchemas.length) {
    calls.append(h("details", { open: words.length > 0 }, h("summary", {}, "Schemas"),
      h("ul", {}, someSchemas.map((name) => h("li", {}, h("a", { href: "#" + name }, name))))));
  }
  found.textContent = words.length ? someCalls.length + " calls, " + someSchemas.length + " schemas" : "";
  mark();
}

// keys lets a reader search without a mouse: / goes to the search, Enter to the first that it found, Escape clears it.
function keys(event) {
  if (event.key === "/" && document.activeElement !== search && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    openMenu(true);
    search.focus();
    search.select();
  } else if (event.key === "Enter" && document.activeElement === search) {
    const first = calls.querySelector("a");
    if (first) first.click();
    main.focus();
  } else if (event.key === "Escape") {
    openMenu(false);
    if (document.activeElement !== search) return;
    search.value = "";
    list();
  }
}

async function start() {
  const answer = await fetch("/api/v1/openapi.json");
  if (!answer.ok) throw new Error("status " + answer.status);
  api = await answer.json();
  document.getElementById("version").textContent = api.info.version;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, op] of Object.entries(methods)) {
      const haystack = [method, path, op.operationId, op.summary, op.description, op.tags[0]].join(" ").toLowerCase();
      operations.push({ ...op, path, method: method.toUpperCase(), haystack });
    }
  }
  schemas = Object.keys(api.components.schemas);
  search.addEventListener("input", list);
  menu.addEventListener("click", () => openMenu(menu.getAttribute("aria-expanded") !== "true"));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names what is shown
    main.focus();
  });
  addEventListener("keydown", keys);
  addEventListener("hashchange", show);
  list();
  show();
}

start().catch((error) => main.replaceChildren(h("p", {}, "The document could not be read: " + error.message)));
