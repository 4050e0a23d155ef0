/** Log lines of the device thread: `console` prints nothing there (its event loop never runs), so they travel by port. */
import { type Logger, type LogLevel, showsAt } from '../common/log.ts';
import type { FromDevice } from './control.ts';

/** A line above this is cut: main writes lines below 4 KiB, and a guest must not make it copy more. */
const LINE_CHARS_MAX = 2000;

export class DeviceLog implements Logger {
  constructor(
    public level: LogLevel,
    private readonly post: (message: FromDevice) => void,
  ) {}

  shows(level: LogLevel): boolean {
    return showsAt(this.level, level);
  }

  write(level: LogLevel, text: string): void {
    if (this.shows(level)) this.post({ type: 'log', level, text: text.slice(0, LINE_CHARS_MAX) });
  }

  error(text: string): void {
    this.write('error', text);
  }
  warn(text: string): void {
    this.write('warn', text);
  }
  info(text: string): void {
    this.write('info', text);
  }
  debug(text: string): void {
    this.write('debug', text);
  }
  trace(text: string): void {
    this.write('trace', text);
  }
}
