(() => {
  "use strict";
  const root = document.documentElement;
  const key = "steelman-theme";
  // a page opened from disk may have no storage: reading it then throws
  const remembered = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem(key, theme); } catch { /* the choice lasts for this visit */ } };
  const known = remembered();
  if (known === "dark" || known === "light") root.dataset.theme = known;

  document.addEventListener("DOMContentLoaded", () => {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
    const toggle = document.getElementById("theme");
    const label = () => { toggle.textContent = isDark() ? "Light theme" : "Dark theme"; };
    toggle.hidden = false;
    label();
    system.addEventListener("change", label);
    toggle.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      label();
    });

    const copy = document.getElementById("copy");
    if (copy) {
      const command = document.getElementById("rerun");
      const said = document.getElementById("copied");
      const tell = (short, long) => {
        copy.textContent = short;
        said.textContent = long;
        setTimeout(() => { copy.textContent = "Copy"; said.textContent = ""; }, 2500);
      };
      copy.hidden = false;
      copy.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(command.textContent);
          tell("Copied", "The command is on the clipboard.");
        } catch {
          getSelection().selectAllChildren(command);
          tell("Selected", "The command is selected: copy it with the keyboard.");
        }
      });
    }
  });
})();
