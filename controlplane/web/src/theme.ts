import { Alert, Button, type CSSVariablesResolver, createTheme, Modal } from "@mantine/core";

export const theme = createTheme({
	primaryColor: "cyan",
	primaryShade: { light: 9, dark: 9 },
	defaultRadius: "md",
	fontFamily: 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif',
	fontFamilyMonospace: 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace',
	headings: { fontWeight: "650" },
	respectReducedMotion: true,
	components: {
		// The page may scroll behind a dialog: locking it would need a style of its own.
		Modal: Modal.extend({ defaultProps: { lockScroll: false, overlayProps: { backgroundOpacity: 0.45 }, transitionProps: { duration: 100 } } }),
		Button: Button.extend({ defaultProps: { loaderProps: { type: "dots" } } }),
		Alert: Alert.extend({ defaultProps: { radius: "md" } }),
	},
});

// Under the pointer a button grows darker: lighter, as Mantine has it, its text has too little contrast.
const hover = { "--mantine-color-cyan-filled-hover": "#095d6e", "--mantine-color-red-filled-hover": "#a82222" };
export const colors: CSSVariablesResolver = () => ({ variables: {}, light: hover, dark: hover });
