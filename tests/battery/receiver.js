// An endpoint of webhooks as others would write it: it verifies each message by the JavaScript library of
// Standard Webhooks, and writes down what it took before it says so.
//
// node receiver.js RECORD SECRETS ERRORS TIMEOUTS PORT
//
// RECORD    a file; a line of JSON for each request: {path, id, verdict, at, data}, where `verdict` is
//           `taken`, `error` (answered 500), `timeout` (not answered) or `forged`
// SECRETS   JSON: path -> the secret of the endpoint that is there
// ERRORS, TIMEOUTS   shares of the requests, of the paths that do not begin with /well
//
// Prints its port, once it listens. Ends with its standard input, so that it outlives no test.
const fs = require("node:fs");
const http = require("node:http");
const { Webhook } = require("standardwebhooks");

const [record, secrets, errors, timeouts, port] = process.argv.slice(2);
const verifiers = Object.fromEntries(
  Object.entries(JSON.parse(secrets)).map(([path, secret]) => [path, new Webhook(secret)]),
);
const file = fs.openSync(record, "a");

function verdictOf(path, body, headers) {
  try {
    verifiers[path].verify(body, headers);
  } catch {
    return "forged";
  }
  if (path.startsWith("/well")) return "taken";
  const chance = Math.random();
  if (chance < Number(errors)) return "error";
  return chance < Number(errors) + Number(timeouts) ? "timeout" : "taken";
}

process.stdin.on("end", () => process.exit()).resume();

http
  .createServer((request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
      const body = Buffer.concat(parts).toString();
      const verdict = verdictOf(request.url, body, request.headers);
      const data = verdict === "forged" ? null : JSON.parse(body).data;
      const line = { path: request.url, id: request.headers["webhook-id"], verdict, at: Date.now() / 1000, data };
      fs.writeSync(file, JSON.stringify(line) + "\n");
      if (verdict === "timeout") return;
      response.statusCode = { taken: 204, error: 500, forged: 401 }[verdict];
      response.end();
    });
  })
  .listen(Number(port), "127.0.0.1", function () {
    console.log(this.address().port);
  });
