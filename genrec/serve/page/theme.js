// Applies the saved theme before the first paint, so that the page does not flash in the wrong colours.
try {
  const theme = localStorage.getItem("genrec.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is disabled: the theme of the system applies.
}
