// Before anything is painted: the theme that was chosen here, else the system's.
try {
  const chosen = localStorage.getItem("torpor-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* no storage: the system's */ }
