// Opens pages in headless chromium at two widths, light and dark, and says what axe-core finds and whether they overflow.
// node look.js MODULES CHROMIUM PAGE...   prints one JSON object a line
const fs = require("fs");
const path = require("path");
const [modules, chromium, ...pages] = process.argv.slice(2);
const puppeteer = require(path.join(modules, "puppeteer-core"));
const axe = fs.readFileSync(path.join(modules, "axe-core", "axe.min.js"), "utf8");
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

(async () => {
  const options = { executablePath: chromium, args: ["--no-sandbox"], timeout: 120000, protocolTimeout: 240000 };
  const browser = await puppeteer.launch(options);
  const tab = await browser.newPage();
  const loaded = [];
  tab.on("request", (request) => loaded.push(request.url()));
  for (const page of pages) {
    for (const scheme of ["light", "dark"]) {
      for (const width of [1280, 400]) {
        await tab.setViewport({ width, height: 900 });
        await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
        loaded.length = 0;
        await tab.goto("file://" + page, { timeout: 120000 });
        await tab.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));
        await tab.evaluate(axe);
        const found = await tab.evaluate((tags) => axe.run({ runOnly: tags }), TAGS);
        const overflow = await tab.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth
        );
        const violations = found.violations.map((one) => ({
          id: one.id, impact: one.impact, where: one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200)),
        }));
        const others = loaded.filter((url) => !url.startsWith("file:") && !url.startsWith("data:"));
        console.log(JSON.stringify({ page, scheme, width, overflow, violations, others }));
      }
    }
  }
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
