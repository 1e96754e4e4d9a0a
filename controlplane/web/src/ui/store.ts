import { useSyncExternalStore } from "react";

export interface Store<T> {
	get(): T;
	set(value: T): void;
	/** The value, as a component sees it. */
	use(): T;
	/** A part of it: a component that uses it is rendered when that part changes. */
	usePart<Part>(choose: (value: T) => Part): Part;
}

/** A value outside of all components that they follow. */
export function store<T>(value: T): Store<T> {
	const followers = new Set<() => void>();
	const get = () => value;
	const follow = (follower: () => void) => {
		followers.add(follower);
		return () => followers.delete(follower);
	};
	return {
		get,
		set(next) {
			value = next;
			for (const follower of followers) follower();
		},
		use: () => useSyncExternalStore(follow, get),
		usePart: (choose) => useSyncExternalStore(follow, () => choose(value)),
	};
}
