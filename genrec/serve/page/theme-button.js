// The button that switches between the light and the dark theme.

import { byId } from "./dom.js";
import { saveTheme } from "./storage.js";

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (systemIsDark.matches ? "dark" : "light")) === "dark";
const showTheme = () => byId("theme").setAttribute("aria-pressed", String(isDark()));

/** Start listening to the button and to the theme of the system. */
export function setUpThemeButton() {
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    saveTheme(document.documentElement.dataset.theme);
    showTheme();
  });
  systemIsDark.addEventListener("change", showTheme);
  showTheme();
}
