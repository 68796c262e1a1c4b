/** How many frames a second are sent. */
export const FPS = 16;
