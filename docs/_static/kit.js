// A button that copies a block of code. Where the clipboard is refused (some browsers, in files), it selects the text.
document.addEventListener("DOMContentLoaded", () => {
  for (const pre of document.querySelectorAll("div.highlight pre")) {
    if (pre.closest(".cell_output")) continue; // what was printed is not to be run
    const button = Object.assign(document.createElement("button"), { className: "copy", textContent: "copy" });
    button.title = "Copy this code";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(pre.innerText);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(pre);
        button.textContent = "selected";
      }
      setTimeout(() => (button.textContent = "copy"), 2000);
    });
    pre.parentElement.append(button);
  }
});
