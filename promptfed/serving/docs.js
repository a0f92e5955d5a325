const form = document.getElementById("ask"), out = document.getElementById("answer");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const value = (name) => form.elements[name].value.trim();
  const headers = value("token") ? { authorization: `Bearer ${value("token")}` } : {};
  const body = new FormData();
  for (const name of ["bundle", "top", "threshold", "classes"]) if (value(name)) body.append(name, value(name));
  for (const file of form.elements["files"].files) body.append("files", file);
  for (const line of value("texts").split("\n")) if (line.trim()) body.append("texts", line);
  out.textContent = "…";
  try {
    const reply = await fetch("/v1/classify", { method: "POST", headers, body });
    out.textContent = JSON.stringify(await reply.json(), null, 2);
  } catch (error) {
    out.textContent = `no answer: ${error.message}`;
  }
});
