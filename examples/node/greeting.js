export const greeting = (what) => `${what} on node ${process.version}`;
