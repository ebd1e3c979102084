"use strict";
const review = JSON.parse(document.getElementById("data").textContent);
const all = document.getElementById("all");
function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}
document.getElementById("where").textContent = review.shown + (review.repository ? " (the git repository has changes, too)" : "");
const titles = { obeyed: "This machine executes or obeys these files", source: "Sources" };
const rows = [];
for (const weight of ["obeyed", "source"]) {
  const changes = review.changes.filter((change) => change.weight === weight);
  if (changes.length === 0) continue;
  const section = make("section");
  section.append(make("h2", titles[weight] + " (" + changes.length + ")"));
  for (const change of changes) {
    const row = make("details");
    row.open = weight === "obeyed";
    const title = make("summary");
    title.append(make("span", change.change, "kind"), make("code", change.shown));
    if (change.after && change.after.shownTarget) title.append(make("span", " \u2192 " + change.after.shownTarget));
    if (change.reason) title.append(make("span", change.reason, "reason"));
    for (const text of [change.conflict, change.problem]) if (text) title.append(make("span", text, "conflict"));
    row.append(title);
    const text = make("pre");
    for (const line of change.diff || []) {
      const name = line.startsWith("+") ? "add" : line.startsWith("-") ? "del" : line.startsWith("@@") ? "hunk" : "";
      text.append(make("span", line + "\n", name));
    }
    row.append(text);
    section.append(row);
    rows.push([row, (change.path + " " + change.shown + " " + (change.reason || "") + " " + change.change).toLowerCase()]);
  }
  all.append(section);
}
const commits = review.commits;
if (commits && (commits.obeyed.length > 0 || commits.problems.length > 0)) {
  const section = make("section");
  section.append(make("h2", "This machine executes or obeys these files of new commits (" + commits.obeyed.length + ")"));
  for (const file of commits.obeyed) {
    const row = make("p");
    row.append(make("span", file.change, "kind"), make("code", file.shown), make("span", file.reason, "reason"));
    row.append(make("span", " commit " + file.commit));
    section.append(row);
    rows.push([row, (file.path + " " + file.shown + " " + file.reason + " " + file.change).toLowerCase()]);
  }
  for (const problem of commits.problems) section.append(make("p", problem, "conflict"));
  all.append(section);
}
if (review.generated.length > 0) {
  const section = make("section");
  section.append(make("h2", "Generated files"));
  const list = make("ul");
  for (const group of review.generated) {
    list.append(make("li", group.shown + ": " + group.files + " files, " + group.bytes + " bytes" + (group.safe ? "" : ", not only data")));
  }
  section.append(list);
  all.append(section);
}
document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const [row, text] of rows) row.hidden = !text.includes(wanted);
});
