import { defineConfig } from "vitest/config";

// What needs hosts is started by who has them: packaging/e2e/dashboard names itself by LAB.
const include = process.env.LAB ? ["src/lab.walk.ts"] : ["src/**/*.test.{ts,tsx}"];

// A busy machine is slow: a test that hangs is found all the same.
export default defineConfig({ test: { include, testTimeout: 120_000, hookTimeout: 60_000 } });
