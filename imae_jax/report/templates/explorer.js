// The interactive panel, explorer.html: draws the chosen state from the sprite's tiles.
"use strict";
for (const section of document.querySelectorAll(".explorer")) {
  const layout = JSON.parse(section.querySelector("script").textContent);
  const sprite = section.querySelector(".sprite");
  const form = section.querySelector("form");
  const { alphas, mask_ratios: ratios, branches, columns } = layout;
  const sources = layout.sources ?? ["subordinate", "dominant"];
  const [height, width] = layout.tile;
  const fixed = sources.length + alphas.length;
  const perPair = fixed + ratios.length * alphas.length * branches.length;

  // A pair's tiles: the targets, the mixture at each alpha, then the reconstructions.
  const target = (pair, s) => pair * perPair + s;
  const mixture = (pair, a) => pair * perPair + sources.length + a;
  const rebuilt = (pair, r, a, s) =>
    pair * perPair + fixed + (r * alphas.length + a) * branches.length + s;

  /** Draws a tile, each of its pixels `scale` canvas pixels wide, and returns the context. */
  function draw(canvas, tile, scale = 1) {
    canvas.width = width * scale;
    canvas.height = height * scale;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false;
    const x = (tile % columns) * width;
    const y = Math.floor(tile / columns) * height;
    context.drawImage(sprite, x, y, width, height, 0, 0, canvas.width, canvas.height);
    return context;
  }

  /** Draws a mixture with masked patches grey, struck out to tell them from grey pixels. */
  function drawMasked(canvas, tile, mask) {
    const context = draw(canvas, tile, Math.ceil(288 / Math.max(width, height)));
    const [rows, across] = layout.patches;
    const high = canvas.height / rows;
    const wide = canvas.width / across;
    context.strokeStyle = "#585858";
    context.lineWidth = 2;
    for (let patch = 0; patch < mask.length; patch++) {
      if (mask[patch] === "0") continue;
      const [x, y] = [(patch % across) * wide, Math.floor(patch / across) * high];
      context.fillStyle = "#808080";
      context.fillRect(x, y, wide, high);
      context.strokeRect(x, y, wide, high);
      context.beginPath();
      context.moveTo(x, y + high);
      context.lineTo(x + wide, y);
      context.stroke();
    }
  }

  /** Draws |one tile - another|, the mean over channels, black over red to white. */
  function drawDifference(canvas, one, other) {
    const pixels = (tile) => draw(canvas, tile).getImageData(0, 0, width, height);
    const result = pixels(one);
    const { data } = result;
    const subtract = pixels(other).data;
    for (let i = 0; i < data.length; i += 4) {
      let sum = 0;
      for (let c = i; c < i + 3; c++) sum += Math.abs(data[c] - subtract[c]);
      const heat = (2 * sum) / 3;
      data.set([heat, heat - 255, heat - 255], i);
    }
    canvas.getContext("2d").putImageData(result, 0, 0);
  }

  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

  /** Error of a branch, and its share of the mean image's, for a pair and over all pairs. */
  function measure(pair, r, a, s) {
    const errors = layout.mse.map((found) => found[r][a][s]);
    const means = layout.mse_train_mean.map((found) => found[r][s]);
    return {
      error: errors[pair].toFixed(3),
      share: errors[pair] / means[pair],
      average: sum(errors) / sum(means),
    };
  }

  function show() {
    const pair = Number(form.elements.pair.value);
    const a = Number(form.elements.alpha.value);
    const r = Number(form.elements.ratio.value);
    const labels = layout.labels[pair];
    const mask = layout.masks[pair][r];
    const removed = sum([...mask].map(Number));
    const alpha = alphas[a].toFixed(2);
    const weights = layout.weights?.[a] ?? [alphas[a], 1 - alphas[a]];
    const state = `alpha ${alpha}, ${removed} of ${mask.length} patches masked`;

    const say = (slider, text, value) => {
      slider.setAttribute("aria-valuetext", text);
      slider.previousElementSibling.textContent = value;
    };
    say(form.elements.alpha, `alpha ${alpha}`, alpha);
    const trained = ratios[r] === layout.trained_mask_ratio ? ", as in training" : "";
    const ratio = `${ratios[r].toFixed(2)}${trained}`;
    say(form.elements.ratio, `mask ratio ${ratio}`, ratio);

    const picture = (parent, name, label) => {
      const canvas = parent.querySelector(`[data-picture=${name}]`);
      canvas.setAttribute("aria-label", label);
      return canvas;
    };
    const parts = sources.map((branch, s) => `${weights[s].toFixed(2)} of ${branch.replace("_", " ")} ${labels[s]}`);
    draw(picture(form, "mixture", `Mixture: ${parts.join(", ")}`), mixture(pair, a));
    const seen = picture(form, "masked", `The mixture the model sees: ${state}`);
    drawMasked(seen, mixture(pair, a), mask);

    const words = branches.map((branch, s) => {
      const row = form.querySelector(`[data-branch=${branch}]`);
      const who = `${branch.replace("_", " ")} ${labels[s]}`;
      const tiles = [rebuilt(pair, r, a, s), target(pair, s)];
      row.querySelector(".label").textContent = labels[s];
      draw(picture(row, "rebuilt", `Reconstruction of ${who}: ${state}`), tiles[0]);
      draw(picture(row, "target", `Original ${who}`), tiles[1]);
      const where = `Difference between reconstruction and original ${who}: ${state}`;
      drawDifference(picture(row, "difference", where), ...tiles);

      const { error, share, average } = measure(pair, r, a, s);
      const all = `${layout.labels.length} ${sources.length > 2 ? "groups" : "pairs"}`;
      row.querySelector("strong").textContent = `${share.toFixed(2)}×`;
      row.querySelector(".bar i").style.width = `${100 * Math.min(1, share)}%`;
      row.querySelector("small").textContent =
        `error ${error}; all ${all} together ${average.toFixed(2)}×`;
      return `${who} is reconstructed with ${share.toFixed(2)} times the error of the mean image`;
    });
    form.querySelector(".words").textContent =
      `At ${state}: ${words.join("; ")}.`;
  }

  sprite.decode().then(() => {
    form.hidden = false;
    form.querySelectorAll(".pair").forEach((label, pair) => {
      label.querySelectorAll("canvas").forEach((canvas, s) => draw(canvas, target(pair, s)));
    });
    form.elements.pair.value = layout.start.pair;
    form.elements.alpha.value = layout.start.alpha;
    form.elements.ratio.value = layout.start.ratio;
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    show();
  });
}
