// What the first page loads may not grow unseen: fails above the limit. It reads what `npm run build` made.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const limit = 300_000; // bytes of scripts, by gzip, as a browser must fetch them before the first page is there
const dist = new URL("dist/", import.meta.url);
const pages = ["src/main.tsx", "src/frame/Frame.tsx", "src/overview/Overview.tsx", "src/account/Login.tsx"];

let manifest;
try {
	manifest = JSON.parse(readFileSync(new URL("assets/manifest.json", dist), "utf8"));
} catch {
	process.stderr.write("size.js: there is no build to weigh; run `npm run build`\n");
	process.exit(1);
}

const gather = (name, found) => {
	if (found.has(name)) return found;
	found.add(name);
	for (const other of manifest[name]?.imports ?? []) gather(other, found);
	return found;
};
const files = new Set(pages.flatMap((page) => [...gather(page in manifest ? page : "index.html", new Set())]).map((name) => manifest[name].file));
const bytes = [...files].reduce((sum, file) => sum + gzipSync(readFileSync(new URL(file, dist)), { level: 9 }).length, 0);
process.stdout.write(`first page: ${(bytes / 1000).toFixed(0)} kB of scripts, of ${limit / 1000} kB\n`);
if (bytes > limit) process.exit(1);
