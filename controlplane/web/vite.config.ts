import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

// packed puts a brotli and a gzip form beside each asset that is worth it, so that chomd never packs while somebody waits.
function packed(): Plugin {
	return {
		name: "packed",
		apply: "build",
		closeBundle() {
			const folder = join(import.meta.dirname, "dist/assets");
			for (const name of readdirSync(folder).filter((name) => /\.(js|css|svg)$/.test(name))) {
				const plain = readFileSync(join(folder, name));
				if (plain.length < 1024) continue;
				writeFileSync(join(folder, `${name}.br`), brotliCompressSync(plain, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }));
				writeFileSync(join(folder, `${name}.gz`), gzipSync(plain, { level: 9 }));
			}
		},
	};
}

export default defineConfig({
	plugins: [react(), packed()],
	build: { target: "es2023", manifest: "assets/manifest.json", modulePreload: { polyfill: false }, assetsInlineLimit: 0, reportCompressedSize: false },
	// `npm run dev` beside `make run`: the page comes from here, all else from chomd.
	server: { proxy: { "^/(chom\\.|api/|healthz|readyz)": "http://127.0.0.1:8080" } },
});
