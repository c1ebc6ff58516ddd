document.addEventListener("input", (event) => {
  if (event.target.matches(".slider input")) {
    event.target.parentNode.style.setProperty("--split", event.target.value + "%");
  }
});
