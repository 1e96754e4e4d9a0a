// The few pictures that there are. Each stands beside words, so that readers of the page are told nothing twice.
import type { ReactNode } from "react";

function icon(children: ReactNode) {
	return function Icon({ size = 18 }: { size?: number }) {
		return (
			<svg
				width={size}
				height={size}
				viewBox="0 0 24 24"
				fill="none"
				stroke="currentColor"
				strokeWidth={1.8}
				strokeLinecap="round"
				strokeLinejoin="round"
				aria-hidden="true"
				focusable="false"
			>
				{children}
			</svg>
		);
	};
}

export const HomeIcon = icon(<path d="M4 11l8-7 8 7v8a1 1 0 0 1-1 1h-5v-6h-4v6H5a1 1 0 0 1-1-1z" />);
export const SiteIcon = icon(
	<>
		<circle cx="12" cy="12" r="8.5" />
		<path d="M3.5 12h17M12 3.5c2.6 2.4 3.8 5.3 3.8 8.5s-1.2 6.1-3.8 8.5c-2.6-2.4-3.8-5.3-3.8-8.5s1.2-6.1 3.8-8.5z" />
	</>,
);
export const ServerIcon = icon(
	<>
		<rect x="4" y="4" width="16" height="7" rx="1.5" />
		<rect x="4" y="13" width="16" height="7" rx="1.5" />
		<path d="M7.5 7.5h.01M7.5 16.5h.01" />
	</>,
);
export const TaskIcon = icon(<path d="M9 6h11M9 12h11M9 18h11M4 6l1 1 1.6-2M4 12l1 1 1.6-2M4 18l1 1 1.6-2" />);
export const PersonIcon = icon(
	<>
		<circle cx="12" cy="8" r="3.8" />
		<path d="M4.5 20c1-3.8 4-5.6 7.5-5.6s6.5 1.8 7.5 5.6" />
	</>,
);
export const TeamIcon = icon(
	<>
		<circle cx="9" cy="8.5" r="3.3" />
		<path d="M2.8 19c.8-3.2 3.2-4.8 6.2-4.8s5.4 1.6 6.2 4.8M15.5 5.4a3.3 3.3 0 0 1 0 6.2M17.8 14.8c1.8.7 3 2.1 3.5 4.2" />
	</>,
);
export const KeyIcon = icon(
	<>
		<circle cx="8" cy="14.5" r="3.8" />
		<path d="M10.8 11.8L19 3.6M15.5 7.1l2.8 2.8" />
	</>,
);
export const LogIcon = icon(
	<>
		<path d="M6 3.5h9l4 4v13H6z" />
		<path d="M9.5 11h6M9.5 14.5h6M9.5 18h3.5" />
	</>,
);
export const SettingsIcon = icon(
	<>
		<path d="M4 7h9M17 7h3M4 12h3M11 12h9M4 17h11M19 17h1" />
		<circle cx="15" cy="7" r="2" />
		<circle cx="9" cy="12" r="2" />
		<circle cx="17" cy="17" r="2" />
	</>,
);
export const OrganizationIcon = icon(
	<>
		<rect x="5" y="3.5" width="9" height="17" rx="1" />
		<path d="M14 9.5h5v11h-5M8 7.5h3M8 11h3M8 14.5h3" />
	</>,
);
export const PlacementIcon = icon(
	<>
		<path d="M12 21c4-4.6 6-8 6-11a6 6 0 0 0-12 0c0 3 2 6.4 6 11z" />
		<circle cx="12" cy="10" r="2.2" />
	</>,
);
export const MailIcon = icon(
	<>
		<rect x="3.5" y="5.5" width="17" height="13" rx="2" />
		<path d="M4 7.5l8 5.5 8-5.5" />
	</>,
);
export const SearchIcon = icon(
	<>
		<circle cx="10.5" cy="10.5" r="6" />
		<path d="M15 15l5 5" />
	</>,
);
export const AlertIcon = icon(
	<>
		<circle cx="12" cy="12" r="8.5" />
		<path d="M12 7.5v5.5M12 16.3v.01" />
	</>,
);
export const CheckIcon = icon(<path d="M5 12.5l4.5 4.5L19 7.5" />);
export const CopyIcon = icon(
	<>
		<rect x="8.5" y="8.5" width="11" height="11" rx="2" />
		<path d="M15.5 5.5a1 1 0 0 0-1-1h-8a2 2 0 0 0-2 2v8a1 1 0 0 0 1 1" />
	</>,
);
export const LightIcon = icon(
	<>
		<circle cx="12" cy="12" r="4" />
		<path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M5.6 18.4L7 17M17 7l1.4-1.4" />
	</>,
);
export const BackIcon = icon(<path d="M14.5 6l-6 6 6 6" />);
export const ForthIcon = icon(<path d="M9.5 6l6 6-6 6" />);
export const ChangeIcon = icon(<path d="M4 8h11M12 4.5L15.5 8 12 11.5M20 16H9M12 12.5L8.5 16l3.5 3.5" />);
export const BackupIcon = icon(
	<>
		<ellipse cx="12" cy="6.5" rx="7.5" ry="2.8" />
		<path d="M4.5 6.5v11c0 1.6 3.4 2.8 7.5 2.8s7.5-1.2 7.5-2.8v-11M4.5 12c0 1.6 3.4 2.8 7.5 2.8s7.5-1.2 7.5-2.8" />
	</>,
);
export const DrillIcon = icon(
	<>
		<path d="M12 3.5l7 2.8v5.2c0 4.3-2.9 7.4-7 9-4.1-1.6-7-4.7-7-9V6.3z" />
		<path d="M8.8 12l2.3 2.3 4.2-4.4" />
	</>,
);
export const RestoreIcon = icon(<path d="M5 5v5h5M5.4 10A7.5 7.5 0 1 1 4.5 14" />);
export const LockIcon = icon(
	<>
		<rect x="5.5" y="10.5" width="13" height="9.5" rx="1.5" />
		<path d="M8.5 10.5V8a3.5 3.5 0 0 1 7 0v2.5" />
	</>,
);
export const DownIcon = icon(<path d="M12 4.5l8.5 15h-17zM12 10v4.5M12 17v.01" />);
export const HookIcon = icon(<path d="M13 3v6M9.5 3h7M13 9c0 6 4.5 4.5 4.5 8a4.6 4.6 0 0 1-9.2 0V14M5.5 16.5L8.3 14l2.8 2.5" />);
