// What the page does beside Vega's charts: it draws them, moves the sliders, copies queries, and runs the gallery.
"use strict";

for (const place of document.querySelectorAll(".chart")) {
  const specification = JSON.parse(place.querySelector("script").textContent);
  vegaEmbed(place.querySelector("div"), specification, {
    mode: "vega-lite", // Vega's interpreter instead of eval, which the page forbids itself
    ast: true,
    renderer: "svg", // its colours follow the page's, in the dark and on paper
    actions: { export: true, source: false, compiled: false, editor: false },
  }).catch((error) => { place.querySelector("div").textContent = `This chart cannot be drawn: ${error.message}`; throw error; });
}

for (const pair of document.querySelectorAll(".pair")) {
  const slider = pair.querySelector("input");
  slider.addEventListener("input", () => pair.style.setProperty("--at", `${slider.value}%`));
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const query = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(query.textContent);
      button.textContent = "Copied";
    } catch { // A page from the disk may not write to the clipboard in every browser.
      getSelection().selectAllChildren(query);
      button.textContent = "Selected: press Ctrl+C";
    }
  });
}

const gallery = document.querySelector("#gallery-data");
if (gallery) showGallery(JSON.parse(gallery.textContent), document.querySelector("#gallery-form"));

function showGallery(content, form) {
  const A_PAGE = 24;
  const list = document.querySelector("#gallery-list"), status = document.querySelector("#gallery-status");
  const measures = Object.fromEntries(content.measures.map((name, place) => [name, place]));
  const models = [...new Set(content.cases.map((each) => each[0]))];
  let page = 0;

  const fill = (name, values) => form.elements[name].append(...values.map((each) => new Option(each, each)));
  const nameOf = (index) => content.names[index] ?? String(index);
  fill("attack", [...new Set(content.pictures.map((each) => each.attack))]);
  fill("model", models);
  fill("view", [...new Set(content.cases.map((each) => each[1]))]);
  fill("defense", [...new Set(content.cases.map((each) => each[2]))]);
  form.elements.defense.value = "none";
  const labels = [...new Set(content.pictures.map((each) => each.label))];
  labels.sort((one, other) => nameOf(one).localeCompare(nameOf(other)));
  form.elements.label.append(...labels.map((each) => new Option(nameOf(each), each)));
  fill("sort", content.measures);

  const caseOf = (model) => content.cases.findIndex((each) =>
    each[0] === model && each[1] === form.elements.view.value && each[2] === form.elements.defense.value);
  const fooled = (picture, said) => picture.target === null ? !said[3] : said[0] === picture.target;
  const saidBy = (picture, model) => picture.answers[caseOf(model)];
  const howMany = (picture) => models.filter((model) => saidBy(picture, model) && fooled(picture, saidBy(picture, model))).length;

  const wanted = {
    any: () => true,
    fooled: (picture, said) => said && fooled(picture, said),
    held: (picture, said) => said && !fooled(picture, said),
    everywhere: (picture) => howMany(picture) === models.length,
    nowhere: (picture) => howMany(picture) === 0,
  };
  const keys = {
    image: (picture) => picture.image_id,
    confidence: (picture, said) => said ? said[1] : 0,
    truth: (picture, said) => said ? said[2] : 2,
    fooled: howMany,
    ...Object.fromEntries(content.measures.map((name) => [name, (picture) => picture.measures[measures[name]] ?? Infinity])),
  };

  function chosen() {
    const { attack, model, label, show, confidence, sort, order } = form.elements;
    const least = (Number(confidence.value) || 0) / 100;
    const kept = content.pictures.map((picture) => [picture, saidBy(picture, model.value)]).filter(([picture, said]) =>
      (attack.value === "" || picture.attack === attack.value) &&
      (label.value === "" || String(picture.label) === label.value) &&
      (least === 0 || (said && said[1] >= least)) && wanted[show.value](picture, said));
    const sign = order.value === "down" ? -1 : 1;
    const compare = (one, other) => one < other ? -1 : one > other ? 1 : 0;
    return kept.sort((one, other) => sign * compare(keys[sort.value](...one), keys[sort.value](...other)));
  }

  function element(kind, text, parent) {
    const made = document.createElement(kind);
    made.textContent = text;
    parent?.append(made);
    return made;
  }

  function card([picture, said]) {
    const item = document.createElement("li");
    const number = caseOf(form.elements.model.value), before = picture.clean[number];
    for (const [source, which] of [[content.originals[picture.image_id], "original"], [picture.source, picture.attack]]) {
      if (!source) continue;
      const image = element("img", "", item);
      image.src = source;
      image.alt = `${nameOf(picture.label)}, ${which}`;
    }
    const told = (answer) => answer ? `${nameOf(answer[0])} (${answer[0]}) ${(100 * answer[1]).toFixed(1)} %` : "no answer";
    element("strong", nameOf(picture.label), item);
    element("span", `${picture.image_id}, ${picture.attack}`, item);
    element("span", `clean: ${told(before)}`, item);
    element("span", `attacked: ${told(said)}`, item);
    if (said && fooled(picture, said)) item.className = "fooled";
    element("span", `fools ${howMany(picture)} of ${models.length} models`, item);
    const [linf, l2] = [picture.measures[measures.linf], picture.measures[measures.l2]];
    element("span", `L∞ ${(255 * linf).toFixed(1)}/255, L2 ${l2.toFixed(2)}, SSIM ${picture.measures[measures.ssim].toFixed(3)}`, item);
    return item;
  }

  function show() {
    const found = chosen(), pages = Math.max(1, Math.ceil(found.length / A_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const shown = found.slice(page * A_PAGE, (page + 1) * A_PAGE);
    list.replaceChildren(...shown.map(card));
    status.textContent = found.length
      ? `${page * A_PAGE + 1}–${page * A_PAGE + shown.length} of ${found.length} pictures` : "No picture is like that.";
    document.querySelector("#gallery-before").disabled = page === 0;
    document.querySelector("#gallery-after").disabled = page === pages - 1;
  }

  form.addEventListener("input", () => { page = 0; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.querySelector("#gallery-before").addEventListener("click", () => { page -= 1; show(); });
  document.querySelector("#gallery-after").addEventListener("click", () => { page += 1; show(); });
  show();
}
