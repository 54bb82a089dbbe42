// Live controls of the page: reads each control's data, enables its inputs, and redraws what they move.
(function () {
  "use strict";

  const get = (id) => document.getElementById(id);
  const data = (name) => JSON.parse(get("data-" + name).textContent);
  const range = (low, high, count) =>
    Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

  // Four digits; a minus that screen readers say
  function pretty(value) {
    const small = value !== 0 && Math.abs(value) < 1e-3;
    const text = small
      ? Number(value.toPrecision(4)).toExponential()
      : String(Number(value.toPrecision(4)) + 0);
    return text.replaceAll("-", "\u2212");
  }

  // What a slider stands at: a number, or one of a list
  function read(id) {
    const input = get(id);
    const value = Number(input.value);
    return input.dataset.values ? JSON.parse(input.dataset.values)[value] : value;
  }

  function show(id, value) {
    const output = get(id);
    const known = value !== null && Number.isFinite(value);
    output.dataset.value = known ? String(value + 0) : "Infinity";
    output.textContent = known ? pretty(value + 0) : output.dataset.infinite || "\u2013";
  }

  // Positions in a plot of 480 x 300, of which 408 x 240 are within the axes
  function frame(id) {
    const [left, right] = get(id).dataset.x.split(" ").map(Number);
    const [low, high] = get(id).dataset.y.split(" ").map(Number);
    const x = (value) => (60 + (408 * (value - left)) / (right - left)).toFixed(1);
    const far = high - low;
    const y = (value) =>
      (250 - (240 * (Math.min(high + far, Math.max(low - far, value)) - low)) / far).toFixed(1);
    const set = (name, d) => get(name).setAttribute("d", d);
    return {
      curve: (name, xs, ys) => set(name, "M" + xs.map((one, i) => x(one) + " " + y(ys[i])).join("L")),
      rule: (name, at) => set(name, at === null ? "" : "M" + x(at) + " 10V250"),
      point: (name, at, value) => {
        const d = "M" + x(at) + " " + y(value) + "h0";
        set(name, d);
        set(name + "-rim", d);
      },
    };
  }

  // Enable a control and redraw it, now and whenever it is moved
  function live(name, redraw) {
    const root = get("control-" + name);
    if (!root || !get("data-" + name)) return;
    const draw = redraw(data(name));
    const inputs = root.querySelectorAll("input, select");
    const update = (event) => {
      for (const input of inputs) {
        if (input.type !== "range") continue;
        const text = pretty(read(input.id));
        get(input.id + "-value").textContent = text;
        input.setAttribute("aria-valuetext", text);
      }
      draw(event);
    };
    for (const input of inputs) {
      input.disabled = false;
      input.addEventListener("input", update);
      input.addEventListener("change", update);
    }
    update(null);
  }

  // erfc to 1.2e-7 of itself everywhere (Numerical Recipes)
  function erfc(x) {
    const t = 1 / (1 + 0.5 * Math.abs(x));
    const terms = [
      -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
      -0.82215223, 0.17087277,
    ];
    const tail = t * Math.exp(-x * x + terms.reduceRight((sum, term) => sum * t + term, 0));
    return x >= 0 ? tail : 2 - tail;
  }

  const activations = {
    relu: (x) => Math.max(x, 0),
    tanh: Math.tanh,
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
    gelu: (x) => 0.5 * x * erfc(-x * Math.SQRT1_2), // x Phi(x), not its tanh form
    softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  };

  live("response", ({ bends }) => {
    const plot = frame("response-plot");
    const xs = range(-3, 3, 241);
    const biases = ["b", "b1", "b2", "c"];
    const zero = (w, b) => (w === 0 ? null : -b / w);
    return () => {
      const on = get("response-biases").checked;
      for (const name of biases) get("response-" + name).disabled = !on;
      const p = (name) => (on || !biases.includes(name) ? read("response-" + name) : 0);
      const name = get("response-activation").value;
      const phi = activations[name];
      const at = p("x");
      const [w, b, v1, w1, b1, v2, w2, b2, c] = "w b v1 w1 b1 v2 w2 b2 c".split(" ").map(p);
      const unit = (x) => phi(w * x + b);
      const net = (x) => v1 * phi(w1 * x + b1) + v2 * phi(w2 * x + b2) + c;
      plot.curve("response-unit-curve", xs, xs.map(unit));
      plot.curve("response-net-curve", xs, xs.map(net));
      plot.rule("response-bend-line", zero(w, b));
      plot.point("response-unit-point", at, unit(at));
      plot.point("response-net-point", at, net(at));
      show("response-unit", unit(at));
      show("response-net", net(at));
      get("response-bend-term").textContent = bends[name];
      show("response-bend", zero(w, b));
      show("response-bend1", zero(w1, b1));
      show("response-bend2", zero(w2, b2));
    };
  });

  // b0 r^t - (1 - m) b0 (r^t - m^t) / (r - m), whose quotient becomes t m^(t - 1) where r is m
  function lagAfter(b0, m, decay, t) {
    const r = 1 - decay;
    const quotient = Math.abs(r - m) < 1e-9 ? t * m ** (t - 1) : (r ** t - m ** t) / (r - m);
    return b0 * (r ** t - (1 - m) * quotient);
  }

  // Beyond its ends the curve stays what it is there
  function interpolate(x, xs, ys) {
    if (x <= xs[0]) return ys[0];
    for (let i = 1; i < xs.length; i++) {
      if (x <= xs[i]) return ys[i - 1] + ((ys[i] - ys[i - 1]) * (x - xs[i - 1])) / (xs[i] - xs[i - 1]);
    }
    return ys[ys.length - 1];
  }

  live("lag", ({ shift, lost, forgotten }) => {
    const over = frame("lag-plot");
    const fall = frame("lag-lost-plot");
    const steps = [...new Set(range(0, 4, 161).map((x) => Math.round(10 ** x)))];
    return () => {
      const [b0, decay, m, step, std] = ["b0", "decay", "momentum", "step", "std"].map((x) => read("lag-" + x));
      const lag = lagAfter(b0, m, decay, step);
      const loss = interpolate(lag / std, shift, lost);
      over.curve(
        "lag-curve",
        steps.map(Math.log10),
        steps.map((t) => Math.asinh(lagAfter(b0, m, decay, t) / std)),
      );
      over.point("lag-point", Math.log10(step), Math.asinh(lag / std));
      fall.point("lag-lost-point", Math.asinh(lag / std), loss);
      show("lag-lag", lag);
      show("lag-shift", lag / std);
      show("lag-lost", loss);
      show("lag-held", m ** step);
      get("lag-note").hidden = m ** step <= forgotten;
    };
  });

  live("theory", ({ sigma_w, tables, words, trains }) => {
    const plot = frame("theory-plot");
    return () => {
      const name = get("theory-activation").value;
      const table = tables[name];
      const at = Number(get("theory-sigma_b").value) * sigma_w.length + Number(get("theory-sigma_w").value);
      for (const group of get("theory-plot").querySelectorAll("[data-group]")) {
        group.setAttribute("display", group.dataset.group === name ? "inline" : "none");
      }
      plot.point("theory-point", read("theory-sigma_w"), read("theory-sigma_b"));
      show("theory-q", table.q[at]);
      show("theory-chi", table.chi_1[at]);
      show("theory-xi", table.xi_c[at]);
      show("theory-depth", table.xi_c[at] === null ? null : trains * table.xi_c[at]);
      get("theory-note").textContent = words[table.phase[at]];
    };
  });

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  // 3x3 convolution (height, width, in, out) with zeros around, bias, and ReLU unless it is the last
  function convolve(h, side, inputs, outputs, kernel, bias, last) {
    const result = new Float32Array(side * side * outputs);
    const sums = new Float64Array(outputs);
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        sums.set(bias);
        for (let i = Math.max(0, 1 - y); i < Math.min(3, side + 1 - y); i++) {
          for (let j = Math.max(0, 1 - x); j < Math.min(3, side + 1 - x); j++) {
            const from = ((y + i - 1) * side + x + j - 1) * inputs;
            for (let c = 0; c < inputs; c++) {
              const value = h[from + c];
              if (value === 0) continue; // half of what ReLU leaves
              const row = ((i * 3 + j) * inputs + c) * outputs;
              for (let o = 0; o < outputs; o++) sums[o] += value * kernel[row + o];
            }
          }
        }
        const to = (y * side + x) * outputs;
        for (let o = 0; o < outputs; o++) result[to + o] = last || sums[o] > 0 ? sums[o] : 0;
      }
    }
    return result;
  }

  function denoise(noisy, weights, { side, channels, depth }) {
    let h = noisy;
    let from = 0;
    for (let layer = 0; layer < depth; layer++) {
      const inputs = layer === 0 ? 1 : channels;
      const outputs = layer === depth - 1 ? 1 : channels;
      const middle = from + 9 * inputs * outputs;
      const parts = [weights.subarray(from, middle), weights.subarray(middle, middle + outputs)];
      h = convolve(h, side, inputs, outputs, ...parts, layer === depth - 1);
      from = middle + outputs;
    }
    return noisy.map((value, i) => value - h[i]);
  }

  function psnr(image, clean) {
    let sum = 0;
    for (let i = 0; i < image.length; i++) sum += (image[i] - clean[i]) ** 2;
    return sum === 0 ? Infinity : -10 * Math.log10(sum / image.length);
  }

  function paint(name, image, side) {
    const canvas = get("denoise-" + name);
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(side, side);
    image.forEach((value, i) => {
      pixels.data.fill(Math.round(255 * Math.min(1, Math.max(0, value))), 4 * i, 4 * i + 3);
      pixels.data[4 * i + 3] = 255;
    });
    context.putImageData(pixels, 0, 0);
    canvas.hidden = false;
    get("denoise-" + name + "-still").hidden = true;
  }

  live("denoise", (held) => {
    const clean = Float32Array.from(new Uint8Array(bytes(held.clean)), (value) => value / 255);
    const noise = Float32Array.from(new Int16Array(bytes(held.noise)), (value) => value / held.scale);
    const weights = { with: new Float32Array(bytes(held.with)), without: new Float32Array(bytes(held.without)) };
    const images = get("denoise-images");
    let waiting = 0;

    function compute() {
      const sigma = read("denoise-sigma");
      if (String(sigma) === images.dataset.sigma) return;
      const noisy = clean.map((value, i) => value + Math.fround(sigma / 255) * noise[i]);
      const found = { noisy };
      for (const name of Object.keys(weights)) found[name] = denoise(noisy, weights[name], held);
      for (const [name, image] of Object.entries(found)) {
        paint(name, image, held.side);
        show("denoise-" + name + "-psnr", psnr(image, clean));
      }
      images.dataset.sigma = String(sigma);
    }

    // A slider that moves waits until it rests
    return (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(compute, event && event.type === "input" ? 150 : 0);
    };
  });
})();
