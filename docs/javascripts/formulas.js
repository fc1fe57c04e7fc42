// Draws the formulas, which the pages hold as TeX between \( \) and \[ \].
document.addEventListener("DOMContentLoaded", () => {
  for (const formula of document.querySelectorAll(".arithmatex")) {
    const tex = formula.textContent.trim();
    katex.render(tex.slice(2, -2), formula, {
      displayMode: tex.startsWith("\\["),
      throwOnError: false,
    });
  }
});
