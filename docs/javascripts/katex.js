// Renders the formulas of each page; the page changes without a reload.
document$.subscribe(({ body }) => {
  const delimiters = [
    { left: "\\(", right: "\\)", display: false },
    { left: "\\[", right: "\\]", display: true },
  ];
  if (window.renderMathInElement) window.renderMathInElement(body, { delimiters });
});
