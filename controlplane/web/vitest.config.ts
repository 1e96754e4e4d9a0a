import { defineConfig } from "vitest/config";

// A busy machine is slow: a test that hangs is found all the same.
export default defineConfig({ test: { testTimeout: 120_000, hookTimeout: 60_000 } });
