// Runs before the first paint, so that a page kept dark never flashes white.
try {
  const kept = localStorage.getItem("genrec.theme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
} catch {
  // Storage is switched off: the system's theme stands.
}
