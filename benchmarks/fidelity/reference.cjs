// HTML of MJML documents by the official compiler. Reads JSON {"module": "mjml5", "documents": [...]} from stdin and writes
// a list of {html, errors}. Run with the folder that holds node_modules as the working directory.
const { createRequire } = require("node:module");
const wanted = createRequire(process.cwd() + "/");
let input = "";
process.stdin.on("data", (chunk) => (input += chunk));
process.stdin.on("end", async () => {
  const { module, documents } = JSON.parse(input);
  const loaded = wanted(module);
  const mjml2html = loaded.default || loaded;
  const made = [];
  for (const document of documents) {
    const { html, errors } = await mjml2html(document, { fonts: {}, validationLevel: "soft" });
    made.push({ html, errors: errors.map((error) => error.formattedMessage) });
  }
  process.stdout.write(JSON.stringify(made));
});
