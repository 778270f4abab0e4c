
(() => {
  "use strict";
  const wide = 560;
  const config = { displaylogo: false, responsive: true, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

  /* '@c0' is the colour --c0 of the style sheet, '@c0:0.5' the same half transparent. */
  function paint(value, style) {
    if (typeof value === "string") {
      const found = /^@(c\d|ink|muted|rule|paper|neutral)(?::([\d.]+))?$/.exec(value);
      if (!found) return value;
      const hex = style.getPropertyValue("--" + found[1]).trim();
      const channel = (i) => parseInt(hex.slice(i, i + 2), 16);
      return found[2] ? `rgba(${channel(1)},${channel(3)},${channel(5)},${found[2]})` : hex;
    }
    if (Array.isArray(value)) return value.map((v) => paint(v, style));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, paint(v, style)]));
    return value;
  }

  function axis(own, narrow) {
    const title = { ...own.title, font: { size: narrow ? 12 : 13 } };
    return { zeroline: false, gridcolor: "@rule", linecolor: "@muted", showline: true, ticks: "", nticks: narrow ? 5 : 8, automargin: true, ...own, title };
  }

  function draw(node) {
    const figure = JSON.parse(document.getElementById(node.id + "-data").textContent).variants[node.dataset.variant];
    const narrow = node.clientWidth < wide;
    const style = getComputedStyle(document.documentElement);
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "@ink" },
      hoverlabel: { bgcolor: "@paper", bordercolor: "@muted", font: { color: "@ink" }, align: "left" },
      hovermode: "closest",
      dragmode: false,
      showlegend: true,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "@muted", activecolor: "@ink" },
      legend: { orientation: "h", x: 0, xanchor: "left", y: -0.17, yanchor: "top", font: { size: 12 } },
      ...figure.layout,
      xaxis: axis(figure.layout.xaxis, narrow),
      yaxis: axis(figure.layout.yaxis, narrow),
      annotations: narrow ? [] : figure.labels,
    };
    if (narrow) layout.margin = { ...figure.layout.margin, l: 44, r: 6 };
    return Plotly.react(node, paint(figure.data, style), paint(layout, style), config);
  }

  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = () => plots.forEach(draw);
  drawAll();

  document.querySelectorAll(".switch button").forEach((button) => {
    button.addEventListener("click", () => {
      const node = document.getElementById(button.dataset.chart);
      node.dataset.variant = button.dataset.variant;
      button.parentElement.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      draw(node);
    });
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { document.documentElement.dataset.print = ""; drawAll(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.print; drawAll(); });
  let width = innerWidth;
  addEventListener("resize", () => {
    if ((width < 2 * wide) !== (innerWidth < 2 * wide) || Math.abs(width - innerWidth) > 80) { width = innerWidth; drawAll(); }
  });
})();
