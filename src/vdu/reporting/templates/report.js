(() => {
  "use strict";
  const root = document.documentElement;
  const one = (selector) => document.querySelector(selector);
  const pictures = one("#pictures"), wipe = one("#wipe"), flip = one("#flip");
  root.classList.add("js");
  const show = (percent) => {
    wipe.value = String(percent);
    pictures.style.setProperty("--wipe", percent + "%");
    wipe.setAttribute("aria-valuetext", percent <= 0 ? "before" : percent >= 100 ? "after" : percent + " % after");
    flip.textContent = percent >= 50 ? "Show before" : "Show after";
  };
  document.querySelectorAll("input[name=view]").forEach((radio) =>
    radio.addEventListener("change", () => pictures.classList.toggle("overlay", radio.value === "overlay" && radio.checked)));
  wipe.addEventListener("input", () => show(Number(wipe.value)));
  flip.addEventListener("click", () => show(Number(wipe.value) >= 50 ? 0 : 100));
  show(50);
  const pick = one("#pick");
  if (pick) pick.addEventListener("change", () => {
    document.querySelectorAll("#pictures .pair").forEach((pair) => { pair.hidden = pick.value !== "" && pair.dataset.asked !== pick.value; });
    if (pick.value) document.querySelectorAll("#pictures details").forEach((more) => { more.open = true; });
  });
  const reveal = () => {
    for (let e = document.getElementById(location.hash.slice(1)); e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
  };
  window.addEventListener("hashchange", reveal);
  reveal();
})();
