import { defineConfig } from "vitest/config";

// What needs hosts is started by who has them, by its name: packaging/e2e/dashboard and packaging/bench.
const include = process.env.WALK ? [`src/${process.env.WALK}.walk.ts`] : ["src/**/*.test.{ts,tsx}"];

// A busy machine is slow: a test that hangs is found all the same. Walks wait for pages and hosts more than they compute.
export default defineConfig({ test: { include, testTimeout: 120_000, hookTimeout: 60_000, maxWorkers: 2 } });
