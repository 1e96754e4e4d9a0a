import { store } from "./store.js";

// One clock for all that says "3 minutes ago".
const clock = store(Date.now());
setInterval(() => clock.set(Date.now()), 5_000);

/** Now, in milliseconds, to five seconds. */
export const useNow = () => clock.use();
